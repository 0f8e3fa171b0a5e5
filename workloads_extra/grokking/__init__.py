"""Grokking: a transformer learns the table of a binary operation from part of it."""
