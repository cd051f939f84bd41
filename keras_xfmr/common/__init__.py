"""Helpers that every package may import: checks of plain values, files."""
