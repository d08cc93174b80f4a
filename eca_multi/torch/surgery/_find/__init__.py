"""Candidates for ECA in a torch network, found by data flow: by symbolic tracing, or by a run on example inputs."""
