"""Helpers of the tests: tables of frameworks, networks, specifications, and programs that tests start."""
