"""What a run has found: the report as data, and its forms: terminal, JSON, JUnit XML and HTML."""
