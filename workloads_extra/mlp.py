"""Multilayer perceptrons, declared once and written in both frameworks without importing either here."""

from itertools import pairwise

from workloads_extra.parameters import Specs, bias, kernel


def layer_name(index: int) -> str:
    """Return the name of a layer."""
    return f"dense_{index}"


def mlp_specs(widths: tuple[int, ...]) -> Specs:
    """Return the parameters of a perceptron.

    Args:
        widths: of the input, every hidden layer and the output.

    Returns:
        A kernel and a bias per layer.
    """
    specs: Specs = {}
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        specs[f"{layer_name(index)}/kernel"] = kernel(inputs, outputs)
        specs[f"{layer_name(index)}/bias"] = bias(outputs)
    return specs
