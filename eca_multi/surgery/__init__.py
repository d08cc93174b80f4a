"""Surgery without a framework: what a user asks for, which sites are chosen, the plan's record, and every message.

A framework's `surgery` folder finds the candidates and changes the network; this folder takes the decisions between.
"""
