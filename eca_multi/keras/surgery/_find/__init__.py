"""Where ECA could stand in a Keras network: the graph, what its operations are, and the sites for each `where`.

`check` refuses networks without a graph to read, `graph` reads one, `kinds` tells what an operation is, `places`
describes a site, `residual`, `blocks`, `squeeze` and `layers` find sites, and `finder` is the way in.
"""
