"""Issued keys: signed tokens that the edge verifies by itself, and what is remembered of them."""
