"""The SQLite half of an index, which is the truth."""
