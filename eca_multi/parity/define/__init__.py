"""What is compared: specifications, cases, axes and weight maps, adapters, jobs, and what a tensor is."""
