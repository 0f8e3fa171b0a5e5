"""LLQR on AlgoPerf workloads: everything the submissions share.

    likelihoods   loss type of a workload ↦ output distribution, hence Fisher
    batches       which part of a training batch serves as curvature batch
    grouping      which parameters share step sizes, which are too large to precondition
    planning      curvature batch, chunks and refresh interval from shapes
    recipes       the settings of one submission, and their configuration
    rulesets      which settings external tuning and self-tuning take
    jax_*, torch_*   training steps

AlgoPerf itself is never imported: workloads are known by what they offer (``model_fn``, ``loss_fn``,
``loss_type``, ``step_hint``), so the same code serves AlgoPerf's workloads and any that look like them.
Importing this package loads no framework.
"""
