"""What is said on the wire, and what it means: pure functions that know no web framework."""
