"""The zoo's own parts: how it counts residual adds, and what it calls a fault. The networks are run by `make zoo`."""
