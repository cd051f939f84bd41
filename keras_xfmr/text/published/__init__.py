"""Which tokenizer a published folder has."""
