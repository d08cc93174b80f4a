"""Error budgets: the reference in float64, with its own error analysis or re-run with rounding noise."""
