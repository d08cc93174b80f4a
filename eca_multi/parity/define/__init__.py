"""What a run compares: specifications, cases, axes, adapters, jobs and tensors."""
