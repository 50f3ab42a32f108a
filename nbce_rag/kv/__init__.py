"""Keys and values of contexts, kept from question to question."""
