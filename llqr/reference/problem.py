"""The data of a layerwise linear-quadratic problem, checked once on construction."""

import dataclasses

import numpy as np

from llqr.reference._checks import Array, check_damping, check_symmetric, float64_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageBlocks:
    """Derivatives of one layer x' = f(x, θ) and of its Hamiltonian, without damping.

    Raises:
        ValueError: If a block has the wrong shape, holds NaN or Inf, or Q or R is not symmetric.
    """

    name: str
    A: Array  # ∂f/∂x [nx', nx]
    B: Array  # ∂f/∂θ [nx', nθ]; nθ = 0 for a layer without parameters
    Q: Array  # (x, x) [nx, nx]
    M: Array  # (θ, x) [nθ, nx]
    R: Array  # (θ, θ) [nθ, nθ]

    def __post_init__(self) -> None:
        """Convert the blocks to float64 and check their shapes."""
        for block in "AB":
            if np.ndim(getattr(self, block)) != 2:
                raise ValueError(
                    f"{block} of stage {self.name!r} must be a matrix, got shape "
                    f"{np.shape(getattr(self, block))}; flatten state and parameters to vectors"
                )
        state_width, parameter_width = np.shape(self.A)[1], np.shape(self.B)[1]
        shapes = {
            "A": (len(self.A), state_width),
            "B": (len(self.A), parameter_width),
            "Q": (state_width, state_width),
            "M": (parameter_width, state_width),
            "R": (parameter_width, parameter_width),
        }
        for block, shape in shapes.items():
            argument = f"{block} of stage {self.name!r}"
            value = float64_array(argument, getattr(self, block), shape)
            if block in "QR":
                check_symmetric(argument, value)
            object.__setattr__(self, block, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LQRProblem:
    """The linear-quadratic problem of a whole network.

    Raises:
        ValueError: If there is no stage, widths of neighbours differ, a terminal array has the
            wrong shape, holds NaN or Inf or is not symmetric, or the damping is not in [0, ∞).
    """

    stages: tuple[StageBlocks, ...]  # i = 0..N-1
    terminal_gradient: Array  # v_N = ∂ℓ/∂x_N [nx_N]
    terminal_curvature: Array  # Q_N [nx_N, nx_N]
    damping: float = 0.0  # λ ≥ 0, added to every R_i

    def __post_init__(self) -> None:
        """Check that the stages form a chain that ends in the terminal arrays."""
        if not self.stages:
            raise ValueError("stages must hold at least one stage, got none; add a layer")
        object.__setattr__(self, "stages", tuple(self.stages))
        for before, after in zip(self.stages[:-1], self.stages[1:], strict=True):
            if before.A.shape[0] != after.A.shape[1]:
                raise ValueError(
                    f"stages must form a chain: stage {before.name!r} puts out a state of width "
                    f"{before.A.shape[0]}, stage {after.name!r} takes one of width "
                    f"{after.A.shape[1]}; reorder the stages or rebuild their blocks"
                )
        width = self.stages[-1].A.shape[0]
        gradient = float64_array("terminal_gradient", self.terminal_gradient, (width,))
        curvature = float64_array("terminal_curvature", self.terminal_curvature, (width, width))
        check_symmetric("terminal_curvature", curvature)
        object.__setattr__(self, "terminal_gradient", gradient)
        object.__setattr__(self, "terminal_curvature", curvature)
        check_damping(self.damping)

    def split(self, delta: Array) -> list[Array]:
        """Cut a flat δ into the steps δθ_i of the layers.

        Args:
            delta: Vector over all parameters, layer after layer [Σ nθ_i].

        Returns:
            N arrays [nθ_i].
        """
        widths = [stage.B.shape[1] for stage in self.stages]
        delta = float64_array("delta", delta, (sum(widths),))
        return list(np.split(delta, np.cumsum(widths)[:-1]))
