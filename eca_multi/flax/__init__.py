"""Efficient Channel Attention for Flax: use `eca_multi.flax.linen` or `eca_multi.flax.nnx`."""
