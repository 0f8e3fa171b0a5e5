"""Layerwise LQR: preconditioners learned from a network's curvature, around any base optimizer.

The core in this package depends on numpy alone. ``llqr.torch`` and ``llqr.jax`` are the thin
shells for the two frameworks; importing ``llqr`` loads neither.

Source: Dufort-Labbé, Bacon, Pascanu, Lacoste-Julien and Baratin, "Layerwise LQR for Geometry-Aware
Optimization of Deep Networks", arXiv 2605.04230.
"""

from llqr._version import __version__

__all__ = ["__version__"]
