"""Models of transformers as rows in one preallocated cache."""
