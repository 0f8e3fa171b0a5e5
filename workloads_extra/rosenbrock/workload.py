"""Minimise a function of two parameters; what both frameworks share.

Every example is the same: the function's constants as input and its known minimum as target, so the loss is
the height above the minimum whatever the batch. Rosenbrock as one layer puts out its two residuals under a
squared error, which is R itself and has a Gauss-Newton matrix. The others put out the value of the function
under an absolute error: there only the Hessian sees curvature, and as two layers only its cross-layer term.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from workloads_extra.base import ExtraWorkload
from workloads_extra.data import Split
from workloads_extra.parameters import ParameterSpec, Specs
from workloads_extra.rosenbrock import functions
from workloads_extra.spec import LossType, ParameterType

START_STDDEV = 0.05
"""Spread of the starting points of different seeds."""


class BasePlaneWorkload(ExtraWorkload):
    """A function of the plane; target on the loss.

    A subclass states ``function``, its ``constants``, its ``minimum`` for every output and the ``start`` of
    every layer.
    """

    target_metric_name = "loss"
    loss_type = LossType.MEAN_ABSOLUTE_ERROR
    output_layer = ""
    target_floor = 1e-6
    _split_sizes: ClassVar = {"train": 64, "validation": 8, "test": 8}

    function: Callable[[Any, Any, list[Any]], Any]
    constants: tuple[float, ...]
    minimum: tuple[float, ...] = (0.0,)
    start: ClassVar[dict[str, tuple[float, ...]]]

    @property
    def eval_batch_size(self) -> int:
        """Examples per evaluation batch."""
        return 8

    def _make_splits(self) -> dict[str, Split]:
        """The one example, repeated."""
        return {
            name: Split(_repeat(self.constants, size), _repeat(self.minimum, size))
            for name, size in self._split_sizes.items()
        }

    def _parameter_specs(self) -> Specs:
        """One vector u per layer."""
        return {
            f"{layer}/u": ParameterSpec((len(point),), ParameterType.WEIGHT, START_STDDEV, point)
            for layer, point in self.start.items()
        }


class BaseRosenbrockWorkload(BasePlaneWorkload):
    """R(u) = (1 − u₁)² + 100 (u₂ − u₁²)² as one layer, from (−1.2, 1)."""

    name = "rosenbrock"
    loss_type = LossType.MEAN_SQUARED_ERROR
    function = staticmethod(functions.rosenbrock_residuals)
    constants = (1.0, 100.0)
    minimum = (0.0, 0.0)
    start: ClassVar = {"layer_0": (-1.2, 1.0)}


class BaseRosenbrockTwoLayersWorkload(BasePlaneWorkload):
    """R(u) as two layers, u₁ in the first and u₂ in the second."""

    name = "rosenbrock_two_layers"
    function = staticmethod(functions.rosenbrock_two_layers)
    constants = (1.0, 100.0)
    start: ClassVar = {"layer_0": (-1.2,), "layer_1": (1.0,)}


class BaseAckleyWorkload(BasePlaneWorkload):
    """Ackley's function: a cone under waves."""

    name = "rosenbrock_ackley"
    target_floor = 1e-3
    function = staticmethod(functions.ackley)
    constants = (20.0, 0.2)
    start: ClassVar = {"layer_0": (1.5, -0.8)}


class BaseGoldsteinPriceWorkload(BasePlaneWorkload):
    """The Goldstein–Price polynomial, whose values span six orders of magnitude."""

    name = "rosenbrock_goldstein_price"
    target_floor = 1e-2
    function = staticmethod(functions.goldstein_price)
    constants = (1.0,)
    minimum = (3.0,)
    start: ClassVar = {"layer_0": (0.5, -0.3)}


def _repeat(values: tuple[float, ...], size: int) -> np.ndarray:
    """[size, len(values)], float32."""
    return np.tile(np.asarray(values, dtype=np.float32), (size, 1))
