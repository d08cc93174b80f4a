"""Where ECA could stand in a linen network: the checks of its arguments, an abstract call, and the sites it shows.

`check` refuses modules that surgery cannot change, `variables` and `call` read the other arguments, `trace` runs the
network in the abstract, and `finder` finds the sites for each `where`.
"""
