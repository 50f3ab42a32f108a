"""Questions with known answers, and the passages that hold them."""
