"""Errors of the runner that end it with one line instead of a traceback."""


class RunnerError(Exception):
    """Something the caller can set right; the message says what and how."""


class StorageError(RunnerError):
    """A file could not be written; what was written before is intact."""


class CheckpointError(RunnerError):
    """A checkpoint cannot be used."""
