r"""AlgoPerf workloads small enough for one CPU, and a runner that follows AlgoPerf's protocol.

Each workload has AlgoPerf's own layout: ``<name>/workload.py`` holds what the frameworks share (data,
targets, metrics), ``<name>/<name>_jax/workload.py`` and ``<name>/<name>_pytorch/workload.py`` the models.
With AlgoPerf installed they subclass its ``Workload``; without it, the small specification in
`workloads_extra.specification`. Only `workloads_extra.spec` knows which.

    python -m workloads_extra.run --workload=digits --framework=jax --submission_path=... \\
        --tuning_search_space=... --experiment_dir=... --experiment_name=...
"""
