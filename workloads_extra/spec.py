"""The one module that decides which specification holds: AlgoPerf's, or the small one kept here.

Workloads and the runner import every type from this module and nothing else differs between the two cases.
`ALGOPERF_INSTALLED` says which one was taken.
"""

try:
    from algoperf.spec import (
        ForwardPassMode,
        LossType,
        ParameterType,
        ShapeTuple,
        TrainingCompleteError,
        Workload,
    )
except ModuleNotFoundError as error:
    # An AlgoPerf that is there but lacks one of its own dependencies must not pass for absent.
    if error.name != "algoperf":
        raise
    from workloads_extra.specification import (
        ForwardPassMode,
        LossType,
        ParameterType,
        ShapeTuple,
        TrainingCompleteError,
        Workload,
    )

    ALGOPERF_INSTALLED = False
else:
    ALGOPERF_INSTALLED = True

__all__ = [
    "ALGOPERF_INSTALLED",
    "ForwardPassMode",
    "LossType",
    "ParameterType",
    "ShapeTuple",
    "TrainingCompleteError",
    "Workload",
]
