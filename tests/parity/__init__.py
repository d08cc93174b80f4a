"""The parity harness: its stages, what it reports, and how it ends when something goes wrong."""
