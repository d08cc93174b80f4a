"""Where ECA could stand in a Keras network: the graph, what its operations are, and the sites for each `where`.

`check` refuses networks without a graph to read, `graph` reads one, `kinds` tells what an operation is, `places`
describes a site, `residual` and `squeeze` find sites, and `finder` finds the others and is the way in.
"""
