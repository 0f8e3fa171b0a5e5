"""AdamW in PyTorch, with the statistics of normalisations that LLQR's submissions are evaluated with."""

from submissions.baselines.adamw_pytorch.submission import make
from submissions.baselines.wiring.pytorch import PytorchBaseline

_baseline = PytorchBaseline(make, present_statistics=True)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
