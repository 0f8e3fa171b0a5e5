"""AlgoPerf submission: LLQR in PyTorch, self-tuning ruleset: step sizes are solved for."""

import sys
from pathlib import Path

# A packaged submission carries the library beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from llqr.algoperf.rulesets import self_tuning
from llqr.algoperf.torch_training import TorchSubmission

_submission = TorchSubmission(self_tuning)

get_batch_size = _submission.get_batch_size
init_optimizer_state = _submission.init_optimizer_state
update_params = _submission.update_params
prepare_for_eval = _submission.prepare_for_eval
data_selection = _submission.data_selection
