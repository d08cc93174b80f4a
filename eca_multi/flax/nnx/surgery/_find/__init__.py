"""Candidates for ECA in an nnx network: by the data flow of a traced run, or by what the modules say themselves."""
