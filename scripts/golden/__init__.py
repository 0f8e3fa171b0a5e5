"""Recomputing the published implementation's numbers with this library."""
