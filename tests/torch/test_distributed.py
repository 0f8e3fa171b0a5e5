"""Two data-parallel processes equal one process on the joint batch."""

import pytest
import torch
from torch import distributed as dist

from llqr.torch import distributed
from tests.torch import workers

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without gloo"
)
PROCESSES = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(workers.process, (PROCESSES, str(folder)), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(workers.CONFIGS))
def test_two_processes_equal_one(ranks, name, dtype):
    first, second = (results[name, str(dtype)] for results in ranks)
    for block, factors in first["factors"].items():
        for key, factor in factors.items():
            assert torch.equal(factor, second["factors"][block][key])
    assert first["counters"] == second["counters"]
    alone = workers.run(name, dtype, 0, 1)
    assert alone["counters"] == first["counters"]
    assert alone["counters"]["fits"] >= 2
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    for one, a, b in zip(
        alone["parameters"], first["parameters"], second["parameters"], strict=True
    ):
        assert torch.equal(a, b)
        assert float((one - a).abs().max()) <= tolerance * max(1.0, float(one.abs().max()))


def test_all_processes_fail_when_one_does(ranks):
    """Otherwise the others would wait for its part of the sum until the time-out."""
    (empty, loss), (other_empty, other_loss) = (results["failure"] for results in ranks)
    assert other_empty.startswith("ValueError: batch must hold at least one example, got size 0")
    assert other_loss == "KeyError: 'from the loss'"
    assert empty.startswith("RuntimeError: linearising the model failed in 1 other process(es)")
    assert loss == empty


def test_without_processes_nothing_is_exchanged():
    values = {"a": {"b": torch.ones(2)}, "c": torch.tensor(1)}
    assert distributed.world_size() == 1
    assert distributed.sum_over_processes(values) is values
    assert distributed.from_first_process(values) is values
    assert distributed.share(5) == 5


def test_a_bucket_holds_every_dtype_and_shape():
    values = {
        "a": {"b": torch.arange(6.0).reshape(2, 3), "empty": torch.zeros(0, 4)},
        "count": torch.tensor(3, dtype=torch.int32),
        "double": torch.ones(2, dtype=torch.float64),
        "number": torch.tensor(2.0),
    }
    buckets = []
    found = distributed._exchanged(values, lambda bucket: buckets.append(bucket.mul_(2)))
    assert [bucket.dtype for bucket in buckets] == [torch.float32, torch.int32, torch.float64]
    assert torch.equal(found["a"]["b"], 2 * values["a"]["b"])
    assert found["a"]["empty"].shape == (0, 4)
    assert found["count"].dtype == torch.int32
    assert int(found["count"]) == 6
    assert float(found["number"]) == 4.0
    assert int(values["count"]) == 3
