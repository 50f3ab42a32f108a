"""Backends: what reads rows of token ids and says what comes next."""
