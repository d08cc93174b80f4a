"""What results mean: verdicts by error budgets, the drift of training, and the power of cases."""
