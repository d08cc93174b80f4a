"""Why an add gets no ECA, or a tensor has no channel axis: the texts that several frameworks give, each once.

Every add of two tensors that both depend on the network's input is either a site or stands in the plan's `skipped` with
one of these reasons, `what="add"`, and the path of the module that adds.
"""

NO_CONVOLUTION = "adds operands that no convolution sets apart: positions, tokens or pooled maps, no residual branch"
PARALLEL = (
    "adds parallel branches, or their sum to a shortcut: no branch ends in one module (where='block' gates the block's "
    "output)"
)
MERGE = (
    "merges maps of different resolution, an encoder's and a decoder's or those of a pyramid: no residual branch "
    "(name the module in a list to gate it)"
)
DIFFERENT_ORIGIN = "adds maps of different origin, with nothing in common: no residual branch"
PARTIAL = "adds groups of channels to each other, a partial sum within a branch: the branch's own end is the site"
GATED_COPY = "adds a tensor, as it is or gated, to a gated copy of the same tensor: attention, no residual branch"
POOLED = "its branch ends in a pooling layer, which has nothing to gate: no residual branch"
NO_MODULE = "its branch ends in {}, not in a module: gate the block instead, in a list"

TOKENS = (
    "its output is (N, tokens, C): a sequence of tokens, not a feature map (to gate it all the same, "
    "pass overrides={{{path!r}: {{'channel_axis': -1}}}})"
)
UNKNOWN_AXIS = (
    "nothing says which axis holds its channels{seen}: pass example_inputs of a size that may grow, or "
    "overrides={{{path!r}: {{'channel_axis': 1}}}} (or -1, the last axis)"
)
UNKNOWN_CHANNELS = "the number of its channels is unknown: pass example_inputs, or kernel_size"
