"""ECA into, and out of, Keras networks that exist."""
