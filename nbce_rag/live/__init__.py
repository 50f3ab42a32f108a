"""Answers while they come, on a terminal and in a notebook."""
