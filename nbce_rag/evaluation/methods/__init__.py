"""The ways of answering that are compared."""
