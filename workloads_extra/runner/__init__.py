"""Parts of ``python -m workloads_extra.run``: flags, trials, the timed loop, checkpoints and records."""
