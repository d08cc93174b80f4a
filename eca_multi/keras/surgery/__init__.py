"""ECA in a Keras network that exists: plan, insert, remove, read plans back, and the weights with and without ECA."""
