"""The files that Flax and orbax write of a network, read as data. linen and nnx share them."""
