"""Submissions that the targets are set with."""
