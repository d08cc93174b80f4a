"""The data flow of a Flax network, read from the jaxpr of one run: for the surgery of linen and of nnx.

Flax has no static graph. Both surgeries therefore run the network once in the abstract, with the path of each module
written onto its inputs and outputs (`tags`), and read the jaxpr of that run: the values and what each was made of
(`flow`), the modules that a value comes from (`origins`), residual branches (`residual`), and SE blocks (`squeeze`);
and which positions along an axis each value was made of (`reach`, `reach_rules`, `positions`).
"""
