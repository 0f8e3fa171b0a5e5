"""Global batch sizes by workload name, the one thing a submission may choose per workload.

Those of AlgoPerf's workloads fit eight 16 GB accelerators and are the ones its own baselines use.
"""

BATCH_SIZES = {
    "cifar": 128,
    "criteo1tb": 262_144,
    "criteo1tb_test": 262_144,
    "fastmri": 32,
    "imagenet_resnet": 1024,
    "imagenet_resnet_gelu": 512,
    "imagenet_resnet_silu": 512,
    "imagenet_vit": 1024,
    "imagenet_vit_glu": 512,
    "librispeech_conformer": 256,
    "librispeech_deepspeech": 256,
    "mnist": 64,
    "ogbg": 512,
    "wmt": 128,
    "char_lm": 64,
    "digits": 128,
    "digits_autoencoder": 128,
    "digits_conv": 128,
    "grokking": 512,
    "grokking_mini": 512,
    "rosenbrock": 8,
}
"""Names of workloads; a variant of one begins with its name."""


def batch_size(workload_name: str) -> int:
    """Return the global batch size of a workload or of a variant of one.

    Args:
        workload_name: e.g. ``"ogbg"``, or ``"ogbg_gelu"``, which takes the size of ``"ogbg"``.

    Raises:
        ValueError: for a name that is neither.
    """
    for name in sorted(BATCH_SIZES, key=len, reverse=True):
        if workload_name == name or workload_name.startswith(name + "_"):
            return BATCH_SIZES[name]
    raise ValueError(
        f"unknown workload {workload_name!r}; known: {', '.join(sorted(BATCH_SIZES))} and variants "
        "whose names begin so"
    )
