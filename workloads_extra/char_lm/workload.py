"""Continue names letter by letter; what both frameworks share.

One sequence is one name, so sequences are padded and most batches have tokens of weight zero, as in
AlgoPerf's translation. The loss of a batch is summed over tokens, and ``n_valid_examples`` counts those
that carry weight.
"""

import functools

from workloads_extra.base import ExtraWorkload
from workloads_extra.char_lm.names import VOCABULARY, character_names, name_sequences
from workloads_extra.data import Split, fixed_splits
from workloads_extra.spec import LossType
from workloads_extra.transformer import Sequences, TransformerSize

_LENGTH = 32
_SPLIT_SEED = 0


class BaseCharLmWorkload(ExtraWorkload):
    """A transformer of two layers on names of up to 31 letters; target on the loss in nats per letter.

    Longer names, three in ten, are left out. The end of a name counts as a letter.
    """

    name = "char_lm"
    target_metric_name = "loss"
    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    output_layer = "output"
    size = TransformerSize(layers=2, width=32, heads=2, mlp_width=64)
    sequences = Sequences(
        length=_LENGTH, vocabulary=VOCABULARY, classes=VOCABULARY, last_only=False
    )

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        """Names with room for their end."""
        return tuple(name for name in character_names() if len(name) < _LENGTH)

    @functools.cached_property
    def _split_sizes(self) -> dict[str, int]:
        """Held-out splits of 512 names each."""
        held_out = 512
        return {
            "train": len(self._names) - 2 * held_out,
            "validation": held_out,
            "test": held_out,
        }

    def _make_splits(self) -> dict[str, Split]:
        """Names in tokens."""
        return fixed_splits(name_sequences(self._names, _LENGTH), self._split_sizes, _SPLIT_SEED)
