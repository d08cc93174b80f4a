"""The layer and the function in every framework, against the oracle and against each other."""
