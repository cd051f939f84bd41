"""Heads for tasks; each works over any encoder."""
