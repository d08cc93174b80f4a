"""Seeded faults in a specification's PyTorch layer: a case that kills none of them shows nothing."""
