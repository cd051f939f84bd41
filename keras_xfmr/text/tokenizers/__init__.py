"""Strings to ids and back, in graph."""
