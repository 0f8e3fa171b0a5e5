"""Reconstruct scikit-learn's digits through a bottleneck; what both frameworks share."""

from workloads_extra.base import ExtraWorkload
from workloads_extra.data import Split
from workloads_extra.digits_data import SPLIT_SIZES, digit_splits
from workloads_extra.spec import LossType


class BaseDigitsAutoencoderWorkload(ExtraWorkload):
    """An eight-layer perceptron; target on the cross-entropy in nats per image.

    The targets are grey levels in [0, 1], so the loss does not go to zero but to their entropy.
    """

    name = "digits_autoencoder"
    target_metric_name = "loss"
    loss_type = LossType.SIGMOID_CROSS_ENTROPY
    widths = (64, 128, 64, 32, 12, 32, 64, 128, 64)
    output_layer = "dense_7"
    _split_sizes = SPLIT_SIZES

    def _make_splits(self) -> dict[str, Split]:
        """Images as inputs and as targets."""
        return {name: Split(split.inputs, split.inputs) for name, split in digit_splits().items()}
