"""Files into text, text into passages."""
