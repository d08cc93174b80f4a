"""The 30 networks of CI: fast ones, spread over the packages."""

SAMPLE: frozenset[str] = frozenset()
