"""The code in the documentation, in docstrings and in examples runs."""
