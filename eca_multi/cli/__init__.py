"""The command line: each command parses its arguments, calls one function of the package, and prints the result."""
