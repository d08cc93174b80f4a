"""What all rooms stand on: the kernel rule, messages, files, imports, public names, and the tools of the tests."""
