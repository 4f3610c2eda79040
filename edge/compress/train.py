"""The training loop that every technique shares: Adam, shuffled batches, a loss given by the technique."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge.datasets import Split
from edge.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import Tensor, nn


class Constraint(Protocol):
    """What must stay true of a parameter whatever it is trained for: pruned weights stay zero, shared ones stay equal."""

    def project(self, values: Tensor) -> Tensor:
        """The nearest values that hold to it, of the same shape."""
        ...

    def gradient(self, gradient: Tensor) -> Tensor:
        """What of the gradient moves the parameter within it."""
        ...


#: Called after each batch: (steps done, steps in all, running loss).
Progress = Callable[[int, int, float], None]
#: Loss of one batch: (images, labels, positions of the batch in the training set) -> scalar.
BatchLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class TrainConfig:
    """Adam (Kingma and Ba 2014).

    Attributes:
        epochs: passes over the training set; the last short batch is dropped.
        seed: of the batch order (the model's own initialisation has its own).
        cosine: the rate falls to zero by half a cosine (Loshchilov and Hutter 2016), else it is constant.
        weight_decay: apart from the gradient (Loshchilov and Hutter 2017).
        shift: each image is moved at random by up to so many pixels along both axes, anew in each epoch (LeCun et al. 1998, section III.B).
    """

    epochs: int
    learning_rate: float = 1e-3
    batch_size: int = 64
    seed: int = 0
    cosine: bool = False
    weight_decay: float = 0.0
    shift: int = 0


def steps_in(config: TrainConfig, samples: int) -> int:
    return config.epochs * (samples // config.batch_size)


def fit(
    model: nn.Layer,
    data: Split,
    loss_of: BatchLoss,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    held: Sequence[tuple[Tensor, Constraint]] = (),
    helpers: Sequence[nn.Layer] = (),
) -> None:
    """Train ``model`` in place.

    Args:
        held: parameters, and what they are held to after each step.
        helpers: layers that the loss uses and that learn along with the model.

    Raises:
        BadInput: a batch is larger than the data. CheckFailed: the loss became NaN or infinite; the message names the step.
    """
    import paddle

    if config.epochs and config.batch_size > len(data):
        raise BadInput(f"a batch of {config.batch_size} cannot be filled: there are {len(data)} images to train on", hint="lower batch_size")
    images, labels = paddle.to_tensor(data.images), paddle.to_tensor(data.labels)
    order = np.random.default_rng(config.seed)
    moved = _Moved(data.images, config.shift, config.seed) if config.shift else None
    total, done, running = steps_in(config, len(data)), 0, 0.0
    rate = paddle.optimizer.lr.CosineAnnealingDecay(config.learning_rate, max(total, 1)) if config.cosine else config.learning_rate
    trained = paddle.nn.LayerList([model, *helpers])
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    optimizer = (paddle.optimizer.AdamW if decay else paddle.optimizer.Adam)(rate, parameters=trained.parameters(), **decay)
    trained.train()
    for _ in range(config.epochs):
        shuffled = order.permutation(len(data))
        for start in range(0, len(data) - config.batch_size + 1, config.batch_size):
            rows = shuffled[start : start + config.batch_size]
            batch = paddle.to_tensor(rows)
            shown = paddle.to_tensor(moved.take(rows)) if moved else paddle.gather(images, batch)
            loss = loss_of(shown, paddle.gather(labels, batch), batch)
            loss.backward()
            for parameter, constraint in held:
                if parameter.grad is not None:  # the statistics of a batch norm have none
                    parameter.grad.set_value(constraint.gradient(parameter.grad))
            optimizer.step()
            for parameter, constraint in held:
                parameter.set_value(constraint.project(parameter))
            optimizer.clear_grad()
            if isinstance(rate, paddle.optimizer.lr.LRScheduler):
                rate.step()
            done += 1
            value = float(loss)
            if not np.isfinite(value):
                raise CheckFailed(f"training diverged: the loss is {value} at step {done} of {total}", hint="lower the learning rate")
            running = value if done == 1 else 0.98 * running + 0.02 * value
            if progress:
                progress(done, total, running)
    trained.eval()


class _Moved:
    """Images [N, C, H, W] at every shift, without a copy; what comes in at the edges is the least value of all."""

    def __init__(self, images: NDArray[np.float32], most: int, seed: int) -> None:
        sides = [(0, 0)] * (images.ndim - 2) + [(most, most)] * 2
        padded = np.pad(images, sides, constant_values=images.min())
        self.views = np.lib.stride_tricks.sliding_window_view(padded, images.shape[-2:], (-2, -1))  # [N, C, shifts, shifts, H, W]
        self.random, self.shifts = np.random.default_rng([seed, most]), 2 * most + 1

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        down, right = self.random.integers(0, self.shifts, (2, len(rows)))
        return np.ascontiguousarray(self.views[rows, :, down, right])


def predict(model: nn.Layer, images: NDArray[np.float32], batch_size: int = 250) -> NDArray[np.float32]:
    """Logits of ``images`` [N, ...] in evaluation mode: [N, classes]."""
    import paddle

    model.eval()
    with paddle.no_grad():
        parts = [model(paddle.to_tensor(images[i : i + batch_size])).numpy() for i in range(0, len(images), batch_size)]
    return np.concatenate(parts)


def top1(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the label, in %."""
    return 100.0 * float(np.mean(logits.argmax(1) == labels))
