"""Answers kept for requests that come again: the key, the entry, the layers, one flight, invalidation."""
