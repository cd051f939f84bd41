"""Finds and loads the tokenizer of a published folder."""
