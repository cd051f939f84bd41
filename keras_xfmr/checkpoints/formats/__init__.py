"""Readers and writers of files of weights; they know no model."""
