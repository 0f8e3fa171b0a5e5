"""The presets hold the published numbers, and step sizes need no learning rate."""

import pytest

from llqr import presets
from llqr.curvature import GaussNewton, Hessian, gauss_newton
from llqr.damping import ConstantDamping
from llqr.divergences import Bernoulli, Categorical
from llqr.solvers import Adam, ConjugateGradient, GradientDescent
from llqr.structures import EKFAC, Diagonal, Kronecker, Scalar

# task: (steps between fits, curvature batch, EMA with the Fisher)
PUBLISHED = {
    "cifar": (1000, 128, 0.95),
    "imagenet": (1500, 256, 0.95),
    "translation": (1000, 48, 0.925),
    "grokking": (2500, 512, 0.95),
}


def test_every_published_task_is_there():
    assert set(presets.PUBLISHED_TASKS) == set(PUBLISHED)


@pytest.mark.parametrize("task", PUBLISHED)
@pytest.mark.parametrize("curvature", ["fisher", "newton"])
def test_published_numbers(task, curvature):
    interval, batch, decay = PUBLISHED[task]
    config = presets.published(task, curvature=curvature)
    assert config.update_interval == interval
    assert config.curvature_batch_size == batch
    assert config.ema_decay == (decay if curvature == "fisher" else 0.9)
    assert config.ema_debias is False and config.warm_start is True
    assert config.apply_to == "gradient" and config.grafting == "none"
    assert config.damping == ConstantDamping(value=0.0)
    assert config.structure == Diagonal(floor=1e-8)
    assert config.inner_solver == GradientDescent(
        steps=50, learning_rate=1e-3, momentum=0.9, clip_norm=5.0, stop_on_rise=True
    )
    expected = GaussNewton(metric=Categorical(), reduction="sum")
    assert config.curvature == (expected if curvature == "fisher" else Hessian())


def test_scalars_are_floored_and_kronecker_is_not():
    assert presets.published("cifar", structure="scalar").structure == Scalar(floor=1e-8)
    assert presets.published("cifar", structure="kronecker").structure == Kronecker()
    capped = presets.published(
        "cifar", structure="kronecker", structure_options={"max_factor_dim": 9}
    )
    assert capped.structure == Kronecker(max_factor_dim=9)


def test_settings_can_be_changed():
    config = presets.published(
        "translation", likelihood="bernoulli", update_interval=7, damping=0.5, apply_to="update"
    )
    assert config.curvature == GaussNewton(metric=Bernoulli(), reduction="sum")
    assert (config.update_interval, config.damping.value, config.apply_to) == (7, 0.5, "update")


def test_another_solver_or_structure_comes_without_the_published_options():
    assert presets.published("cifar", inner_solver="adam").inner_solver == Adam()
    given = ConjugateGradient(steps=3)
    assert presets.published("cifar", inner_solver=given).inner_solver is given
    tuned = presets.published("cifar", inner_solver="adam", solver_options={"b1": 0.5})
    assert tuned.inner_solver == Adam(b1=0.5)
    structure = Diagonal()
    assert presets.published("cifar", structure=structure).structure is structure


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown task 'mnist'; known: cifar, grokking, imagenet, translation"
    ):
        presets.published("mnist")
    with pytest.raises(
        ValueError, match="unknown published curvature 'renyi'; known: fisher, newton"
    ):
        presets.published("cifar", curvature="renyi")
    with pytest.raises(TypeError, match=r"unknown setting 'learning_rate'; known: .*ema_decay"):
        presets.published("cifar", learning_rate=0.1)


@pytest.mark.parametrize("total_steps", [None, 20])
def test_step_sizes_do_not_depend_on_the_learning_rate(total_steps):
    """Whatever Adam's learning rate, the solved steps, hence the parameters, are the same."""
    torch = pytest.importorskip("torch")
    from llqr.torch import LLQR

    def train(learning_rate):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
        ).double()
        batch = (torch.randn(12, 5, dtype=torch.float64), torch.randint(0, 3, (12,)))

        def loss_fn(outputs, batch):
            return torch.nn.functional.cross_entropy(outputs, batch[1])

        base = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.99))
        config = presets.step_sizes("categorical", total_steps=total_steps, update_interval=3)
        optimizer = LLQR(base, model, loss_fn, config)
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            loss = loss_fn(model(batch[0]), batch)
            loss.backward()
            optimizer.step(batch=batch)
            losses.append(loss.item())
        return torch.cat([p.detach().ravel() for p in model.parameters()]), losses

    (one, losses), (other, _) = train(1.0), train(1e-4)
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert losses[-1] < 0.5 * losses[0]


def test_shaped_updates_keep_their_length_and_start_from_the_identity():
    config = presets.shaped("ekfac", likelihood="bernoulli", ema_decay=0.8)
    assert config.structure == EKFAC() and config.inner_solver == ConjugateGradient(steps=3)
    assert config.curvature == gauss_newton(Bernoulli(), output_metric=0.01)
    assert (config.apply_to, config.grafting, config.warm_start) == ("update", "norm", False)
    assert (config.update_interval, config.ema_decay, config.ema_debias) == (20, 0.8, True)
    assert presets.shaped(curvature=Hessian()).curvature == Hessian()
    with pytest.raises(ValueError, match=r"unknown structure 'kron'; known: .*kronecker"):
        presets.shaped("kron")
