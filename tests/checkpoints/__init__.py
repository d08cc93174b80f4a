"""Reading, identifying, converting and writing files of weights, in every framework."""
