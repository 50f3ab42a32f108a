"""NBCE, the facade, and what it is made of."""
