"""Ablations of LLQR in JAX: AdamW preconditioned by the variant that the search space names."""

from experiments.ablations import variant
from llqr.algoperf.jax_training import JaxSubmission

_submission = JaxSubmission(variant)

get_batch_size = _submission.get_batch_size
init_optimizer_state = _submission.init_optimizer_state
update_params = _submission.update_params
prepare_for_eval = _submission.prepare_for_eval
data_selection = _submission.data_selection
