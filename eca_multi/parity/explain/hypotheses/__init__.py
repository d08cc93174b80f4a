"""The cause of a failure, by name: faults of porters are tried on the reference, until the failing result matches.

`search.name_causes` tries them, and imports PyTorch; `reference` does so in a worker. `cause` imports no framework.
"""
