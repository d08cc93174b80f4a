"""The tests of eca_multi: one folder per room of the package, and helpers in `support`."""
