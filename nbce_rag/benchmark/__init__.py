"""What a first token and every further one cost, against the concatenated prompt and the plain loop."""
