"""Errors that end a program with one line instead of a traceback."""


class ExperimentError(Exception):
    """Something the caller can set right; the message says what and how."""
