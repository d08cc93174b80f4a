"""What stands in a Keras network with ECA: the layer, and the new model that holds it.

A Keras graph cannot be changed, so surgery makes a model anew: `edits` lists the differences, `rebuild` makes the
model, `clone` its layers; `installed` holds the inserted layer, and reads inserted layers back.
"""
