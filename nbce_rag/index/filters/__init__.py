"""Conditions on metadata."""
