"""The FAISS half of an index, which can be made anew."""
