"""Classify scikit-learn's digits; what both frameworks share."""

from workloads_extra.base import ExtraWorkload
from workloads_extra.data import Split
from workloads_extra.digits_data import SPLIT_SIZES, digit_splits
from workloads_extra.spec import LossType


class BaseDigitsWorkload(ExtraWorkload):
    """A perceptron of four layers; target on the accuracy."""

    name = "digits"
    target_metric_name = "accuracy"
    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    widths = (64, 128, 128, 128, 10)
    output_layer = "dense_3"
    _split_sizes = SPLIT_SIZES

    def _make_splits(self) -> dict[str, Split]:
        """Images and their classes."""
        return digit_splits()
