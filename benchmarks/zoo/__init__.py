"""Networks of packages that nobody here wrote, with ECA: `make zoo` runs them all and writes docs/zoo.md.

`*_networks.py` hold the networks, `*_flow.py` count residual adds by the operations that run, `*_steps.py` examine one
network; `worker.py` runs them in a process of its own, `page.py` writes the table.
"""
