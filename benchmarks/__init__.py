"""Peers side by side in one run. Start each from the repository's root by `python -m`."""
