"""Writing files and folders whole or not at all. Nothing else in the package writes, moves or removes files."""
