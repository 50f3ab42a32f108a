"""What stood behind each token, and what is cited for it."""
