"""What stands in a network with ECA: an ECA behind a module, in a module's place, or in an empty slot."""
