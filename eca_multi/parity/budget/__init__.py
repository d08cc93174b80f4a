"""How far a right result may be off: the reference in float64, by analysis or re-run with rounding noise."""
