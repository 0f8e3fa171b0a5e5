"""Workloads of a few parameters with AlgoPerf's interface and none of its code, in NumPy-like JAX and torch.

They cover what the real ones do: masks, per-token losses, means over an example, CTC with paddings, dropout,
batch statistics and batches that cannot be cut.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn


class LossType(enum.Enum):
    SOFTMAX_CROSS_ENTROPY = 0
    SIGMOID_CROSS_ENTROPY = 1
    MEAN_SQUARED_ERROR = 2
    CTC_LOSS = 3
    MEAN_ABSOLUTE_ERROR = 4


class ForwardPassMode(enum.Enum):
    TRAIN = 0
    EVAL = 1


class Graph(NamedTuple):
    """Nodes of all examples in one array, as batched graphs have them."""

    nodes: Any
    example_of_node: Any


FEATURES, HIDDEN, CLASSES, FRAMES = 5, 6, 4, 7
_LOSS_TYPES = {
    "sigmoid": LossType.SIGMOID_CROSS_ENTROPY,
    "squared": LossType.MEAN_SQUARED_ERROR,
    "absolute": LossType.MEAN_ABSOLUTE_ERROR,
    "ctc": LossType.CTC_LOSS,
}


def initial_parameters(dtype=np.float32):
    """Kernels [in, out]; torch takes their transposes."""
    rng = np.random.default_rng(0)
    return {
        "dense_0": {
            "kernel": (rng.normal(size=(FEATURES, HIDDEN)) / 2).astype(dtype),
            "bias": np.zeros(HIDDEN, dtype),
        },
        "dense_1": {
            "kernel": (rng.normal(size=(HIDDEN, CLASSES)) / 2).astype(dtype),
            "bias": np.zeros(CLASSES, dtype),
        },
    }


def make_batch(kind, examples, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    # Targets are what a fixed linear map of the inputs says, so that there is something to learn.
    teacher = np.random.default_rng(1).normal(size=(FEATURES, CLASSES))
    sequence = (FRAMES,) if kind in ("tokens", "ctc") else ()
    inputs = rng.normal(size=(examples, *sequence, FEATURES)).astype(dtype)
    mask = (rng.random(examples) < 0.8).astype(dtype)
    mask[0] = 1.0
    if kind == "graph":
        nodes = rng.normal(size=(3 * examples + 1, FEATURES)).astype(dtype)
        owners = rng.integers(0, examples, size=len(nodes))
        return {
            "inputs": Graph(nodes, owners),
            "targets": rng.integers(0, 2, size=(examples, CLASSES)).astype(dtype),
            "weights": (rng.random((examples, CLASSES)) < 0.7).astype(dtype),
        }
    if kind == "ctc":
        lengths = rng.integers(5, FRAMES + 1, size=(examples, 1))
        paddings = (np.arange(FRAMES) >= lengths).astype(dtype)
        labels = rng.integers(1, CLASSES, size=(examples, 2))
        label_paddings = np.zeros((examples, 2), dtype)
        label_paddings[::2, 1] = 1.0
        return {"inputs": (inputs, paddings), "targets": (labels, label_paddings)}
    if kind in ("softmax", "tokens"):
        targets = (inputs @ teacher).argmax(-1)
        weights = (rng.random((examples, *sequence)) < 0.7).astype(dtype) if sequence else mask
        weights.reshape(-1)[0] = 1.0
    elif kind == "labels":
        targets = (inputs @ teacher > 0).astype(dtype)
        weights = (rng.random((examples, CLASSES)) < 0.7).astype(dtype)
    else:
        targets = rng.random((examples, CLASSES)).astype(dtype)
        weights = mask
    return {"inputs": inputs, "targets": targets, "weights": weights}


class _Workload:
    step_hint = 100
    num_train_examples = 400
    metrics_logger = None

    def __init__(self, kind="softmax", *, statistics=True, dtype=np.float32):
        self.kind = kind
        self.statistics = statistics
        self.dtype = dtype

    @property
    def loss_type(self):
        # Labels and graphs are multi-label problems that are declared as softmax, as AlgoPerf's ogbg is.
        return _LOSS_TYPES.get(self.kind, LossType.SOFTMAX_CROSS_ENTROPY)

    @property
    def model_params_types(self):
        return {}


class JaxTiny(_Workload):
    def init_model_fn(self, rng=None):
        params = jax.tree.map(jnp.asarray, initial_parameters(self.dtype))
        return params, {"mean": jnp.zeros(HIDDEN, self.dtype)} if self.statistics else {}

    def model_fn(
        self,
        params,
        augmented_and_preprocessed_input_batch,
        model_state,
        mode,
        rng,
        update_batch_norm,
        dropout_rate=0.5,
    ):
        x = augmented_and_preprocessed_input_batch["inputs"]
        paddings = None
        if isinstance(x, Graph):
            count = augmented_and_preprocessed_input_batch["targets"].shape[0]
            x = jax.ops.segment_sum(x.nodes, x.example_of_node, num_segments=count)
        elif isinstance(x, tuple):
            x, paddings = x
        h = x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]
        train = mode == ForwardPassMode.TRAIN
        new_state = model_state
        if self.statistics:
            mean = h.reshape((-1, HIDDEN)).mean(0) if train else model_state["mean"]
            if update_batch_norm:
                kept = jax.lax.stop_gradient(mean)
                new_state = {"mean": 0.9 * model_state["mean"] + 0.1 * kept}
            # Half: taking all of it off would leave the bias before it a gradient of rounding errors.
            h = h - 0.5 * mean
        h = jnp.tanh(h)
        if train and dropout_rate:
            kept = jax.random.bernoulli(rng, 1.0 - dropout_rate, h.shape)
            h = jnp.where(kept, h / (1.0 - dropout_rate), 0.0)
        logits = h @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
        return (logits if paddings is None else (logits, paddings)), new_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        if self.kind == "ctc":
            logits, paddings = logits_batch
            losses = optax.ctc_loss(logits, paddings, *label_batch)
            return {"summed": losses.sum(), "n_valid_examples": (1 - label_batch[1]).sum()}
        if self.kind in ("softmax", "tokens"):
            targets = optax.smooth_labels(jax.nn.one_hot(label_batch, CLASSES), label_smoothing)
            losses = -(targets * jax.nn.log_softmax(logits_batch)).sum(-1)
        elif self.kind in ("sigmoid", "labels", "graph"):
            losses = optax.sigmoid_binary_cross_entropy(logits_batch, label_batch)
        elif self.kind == "squared":
            losses = jnp.square(logits_batch - label_batch)
        else:
            losses = jnp.abs(logits_batch - label_batch)
        if self.kind in ("sigmoid", "squared", "absolute"):
            losses = losses.mean(-1)
        return {"summed": (losses * mask_batch).sum(), "n_valid_examples": mask_batch.sum()}


class _Net(nn.Module):
    def __init__(self, statistics, dtype):
        super().__init__()
        self.statistics = statistics
        self.momentum = 0.1
        self.dense_0 = nn.Linear(FEATURES, HIDDEN)
        self.dense_1 = nn.Linear(HIDDEN, CLASSES)
        self.register_buffer("running_mean", torch.zeros(HIDDEN) if statistics else None)
        if dtype == np.float64:
            self.double()
        with torch.no_grad():
            for layer, values in initial_parameters(dtype).items():
                module = getattr(self, layer)
                module.weight.copy_(torch.as_tensor(values["kernel"].T))
                module.bias.copy_(torch.as_tensor(values["bias"]))

    def forward(self, x, dropout_rate, count=None):
        paddings = None
        if isinstance(x, Graph):
            x = torch.zeros(count, FEATURES, dtype=x.nodes.dtype).index_add(
                0, x.example_of_node, x.nodes
            )
        elif isinstance(x, tuple):
            x, paddings = x
        h = self.dense_0(x)
        if self.statistics:
            mean = self.running_mean
            if self.training:
                mean = h.reshape(-1, HIDDEN).mean(0)
                kept = (1.0 - self.momentum) * self.running_mean
                self.running_mean = kept + self.momentum * mean.detach()
            h = h - 0.5 * mean
        h = torch.dropout(torch.tanh(h), dropout_rate, self.training)
        logits = self.dense_1(h)
        return logits if paddings is None else (logits, paddings)


class TorchTiny(_Workload):
    def init_model_fn(self, rng=None):
        return _Net(self.statistics, self.dtype), None

    def model_fn(
        self,
        params,
        augmented_and_preprocessed_input_batch,
        model_state,
        mode,
        rng,
        update_batch_norm,
        dropout_rate=0.5,
    ):
        if mode == ForwardPassMode.TRAIN:
            params.train()
            params.apply(lambda module: None)
        else:
            params.eval()
        count = len(augmented_and_preprocessed_input_batch["targets"])
        with torch.set_grad_enabled(mode == ForwardPassMode.TRAIN):
            inputs = augmented_and_preprocessed_input_batch["inputs"]
            return params(inputs, dropout_rate, count), None

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        functional = nn.functional
        if self.kind == "ctc":
            logits, paddings = logits_batch
            labels, label_paddings = label_batch
            losses = functional.ctc_loss(
                logits.log_softmax(-1).transpose(0, 1),
                labels,
                (1 - paddings).sum(-1).long(),
                (1 - label_paddings).sum(-1).long(),
                reduction="none",
            )
            return {"summed": losses.sum(), "n_valid_examples": (1 - label_paddings).sum()}
        if self.kind in ("softmax", "tokens"):
            losses = functional.cross_entropy(
                logits_batch.reshape(-1, CLASSES),
                label_batch.reshape(-1),
                reduction="none",
                label_smoothing=label_smoothing,
            ).reshape(label_batch.shape)
        elif self.kind in ("sigmoid", "labels", "graph"):
            losses = functional.binary_cross_entropy_with_logits(
                logits_batch, label_batch, reduction="none"
            )
        elif self.kind == "squared":
            losses = (logits_batch - label_batch).square()
        else:
            losses = (logits_batch - label_batch).abs()
        if self.kind in ("sigmoid", "squared", "absolute"):
            losses = losses.mean(-1)
        return {"summed": (losses * mask_batch).sum(), "n_valid_examples": mask_batch.sum()}


def to_torch(tree):
    """Return a batch as tensors."""
    if isinstance(tree, dict):
        return {key: to_torch(value) for key, value in tree.items()}
    if isinstance(tree, Graph):
        return Graph(*(to_torch(value) for value in tree))
    if isinstance(tree, tuple):
        return tuple(to_torch(value) for value in tree)
    return torch.as_tensor(tree)
