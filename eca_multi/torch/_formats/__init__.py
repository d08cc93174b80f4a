"""The files that torch.save writes, read as data: nothing in a file is run, and no class that a file names is made."""
