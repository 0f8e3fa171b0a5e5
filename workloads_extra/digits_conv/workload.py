"""Classify scikit-learn's digits with convolutions and batch normalisation; what both frameworks share."""

from typing import NamedTuple

from workloads_extra.base import ExtraWorkload
from workloads_extra.data import Split
from workloads_extra.digits_data import SPLIT_SIZES, digit_splits
from workloads_extra.parameters import Specs, bias, conv_kernel, kernel, norm_scale
from workloads_extra.spec import LossType, ParameterType

IMAGE_SIDE = 8
CLASSES = 10
KERNEL_SIDE = 3
NORM_MOMENTUM = 0.1
"""Share of a batch in the running statistics after it; the running variance takes the unbiased one."""
NORM_EPSILON = 1e-5


class ConvLayer(NamedTuple):
    """A convolution of 3 × 3 with a border of zeros, batch normalisation and ReLU.

    Attributes:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: between the places where the kernel is applied.
    """

    inputs: int
    outputs: int
    stride: int


LAYERS = (ConvLayer(1, 16, 1), ConvLayer(16, 32, 2), ConvLayer(32, 32, 1))
FEATURES = LAYERS[-1].outputs


class BaseDigitsConvWorkload(ExtraWorkload):
    """Three convolutions, the mean over the image and a linear layer; target on the accuracy."""

    name = "digits_conv"
    target_metric_name = "accuracy"
    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    output_layer = "output"
    _split_sizes = SPLIT_SIZES

    def _make_splits(self) -> dict[str, Split]:
        """Images and their classes."""
        return digit_splits()

    def _parameter_specs(self) -> Specs:
        """Convolutions without a shift, since a normalisation with one follows; then the linear layer."""
        specs: Specs = {}
        for index, layer in enumerate(LAYERS):
            specs[f"{conv_name(index)}/kernel"] = conv_kernel(
                KERNEL_SIDE, layer.inputs, layer.outputs
            )
            norm = norm_name(index)
            specs[f"{norm}/scale"] = norm_scale(layer.outputs, ParameterType.BATCH_NORM_SCALE)
            specs[f"{norm}/bias"] = bias(layer.outputs, ParameterType.BATCH_NORM_BIAS)
        specs["output/kernel"] = kernel(FEATURES, CLASSES)
        specs["output/bias"] = bias(CLASSES)
        return specs


def conv_name(index: int) -> str:
    """Return the name of a convolution."""
    return f"conv_{index}"


def norm_name(index: int) -> str:
    """Return the name of the normalisation after a convolution."""
    return f"norm_{index}"
