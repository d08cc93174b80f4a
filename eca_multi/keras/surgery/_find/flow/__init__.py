"""How the positions along an axis of the input go through a network: one rule for each operation.

`flow` is what is tracked of a tensor, `step` one call of an operation. `windows`, `axes` and `inputs` hold the rules
for operations that look around, that move or mix axes, and that take several tensors; `rules` is the table.
"""
