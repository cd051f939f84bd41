"""Ids of texts to the inputs of a model, in graph."""
