"""ECA into networks that exist, in every framework: plan, insert, remove, infer, states, verify."""
