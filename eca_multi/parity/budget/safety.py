"""The factor c of each kind of budget.

A budget E says, element by element, how far a correct implementation may be from the float64 reference. The reference
gives E: by an error analysis of its own, or else by re-runs with rounding noise (noise.py). A result passes if
|result - reference| <= c * E, with c for second-order terms.
"""

# The stochastic budget samples the worst case 16 times; the analytic one bounds it.
SAFETY = {"analytic": 2.0, "stochastic": 4.0, "manual": 1.0}
