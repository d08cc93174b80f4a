"""The gates of a network: recording, the record's file, pictures, and which ECAs do nothing."""
