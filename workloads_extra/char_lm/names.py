"""Names of the characters of Unicode 3.2, a text that never changes, from Python's standard library."""

import functools
import sys
import unicodedata

import numpy as np

from workloads_extra.data import Split

_COMPUTED = ("CJK UNIFIED IDEOGRAPH-", "CJK COMPATIBILITY IDEOGRAPH-", "HANGUL SYLLABLE ")
"""Beginnings of the names that are made from the code point."""

END = 0
"""Token before the first and after the last letter of a name, and padding."""

ALPHABET = " -0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letter i is token i + 1."""

VOCABULARY = 1 + len(ALPHABET)


@functools.cache
def character_names() -> tuple[str, ...]:
    """Return the names that somebody chose, in the order of their characters."""
    database = unicodedata.ucd_3_2_0
    names = (database.name(chr(point), "") for point in range(sys.maxunicode + 1))
    return tuple(name for name in names if name and not name.startswith(_COMPUTED))


def name_sequences(names: tuple[str, ...], length: int) -> Split:
    """Return every name as a sequence to continue letter by letter.

    Args:
        names: shorter than ``length``.
        length: tokens of a sequence.

    Returns:
        Per name, the tokens END a b c as inputs, a b c END as targets, both [names, length], int64 and
        padded; weights one from the first letter to END, zero on the padding.
    """
    number = {letter: index for index, letter in enumerate(ALPHABET, start=1)}
    tokens = np.full((len(names), length + 1), END, np.int64)
    for row, name in zip(tokens, names, strict=True):
        row[1 : 1 + len(name)] = [number[letter] for letter in name]
    # As many targets as letters, and END.
    counts = np.array([len(name) + 1 for name in names])
    weights = np.arange(length) < counts[:, None]
    return Split(tokens[:, :-1], tokens[:, 1:], weights.astype(np.float32))
