"""Tables of binary operations: arithmetic modulo a prime, and composition of permutations."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
    """All pairs on which an operation is defined, and its results.

    Attributes:
        left: first operand of every pair, int64 in [0, size).
        right: second operand, the same shape.
        result: the same shape and range.
        size: number of elements.
    """

    left: np.ndarray
    right: np.ndarray
    result: np.ndarray
    size: int


def modular_table(operation: str, prime: int) -> Table:
    """Return the table of an operation modulo a prime.

    Args:
        operation: a key of `MODULAR`. The quotient leaves out division by zero; 0⁰ = 1.
        prime: the modulus.

    Returns:
        prime² pairs, or prime (prime − 1) for the quotient.
    """
    first_right = 1 if operation == "quotient" else 0
    left, right = _pairs(np.arange(prime), np.arange(first_right, prime))
    return Table(left, right, MODULAR[operation](left, right, prime), prime)


def permutation_table(letters: int) -> Table:
    """Return the table of composition, (a ∘ b)(i) = a(b(i)), in the symmetric group.

    Args:
        letters: that are permuted; the group has letters! elements.

    Returns:
        (letters!)² pairs.
    """
    elements = np.array(list(itertools.permutations(range(letters))))
    number = {tuple(element): index for index, element in enumerate(elements)}
    left, right = _pairs(np.arange(len(elements)), np.arange(len(elements)))
    composed = np.take_along_axis(elements[left], elements[right], axis=1)
    result = np.array([number[tuple(element)] for element in composed])
    return Table(left, right, result, len(elements))


def _power(left: np.ndarray, right: np.ndarray, prime: int) -> np.ndarray:
    """left^right modulo a prime, with 0⁰ = 1."""
    return np.array([pow(int(a), int(b), prime) for a, b in zip(left, right, strict=True)])


def _quotient(left: np.ndarray, right: np.ndarray, prime: int) -> np.ndarray:
    """Return left · right⁻¹ modulo a prime, the inverse by Fermat's little theorem."""
    return left * _power(right, np.full_like(right, prime - 2), prime) % prime


MODULAR: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "sum": lambda left, right, prime: (left + right) % prime,
    "difference": lambda left, right, prime: (left - right) % prime,
    "product": lambda left, right, prime: left * right % prime,
    "quotient": _quotient,
    "power": _power,
}
"""Operations on arrays of residues."""


def _pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every element of one array with every element of another."""
    grid = np.meshgrid(left, right, indexing="ij")
    return grid[0].reshape(-1), grid[1].reshape(-1)
