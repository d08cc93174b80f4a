"""The files that Keras writes of a network, read as data: nothing in a file is deserialised."""
