"""Transport: what HTTP asks for, and what it gets."""
