"""Self-distillation within a net: heads on its shallow layers learn from its own logits, and pull those layers along.

Source: Zhang, Song, Gao, Chen, Bao and Ma 2019, "Be Your Own Teacher" (arXiv 1905.08094): a shallow head's loss is the cross-entropy with the labels,
the divergence from the deepest classifier, and the squared error between its features and the deepest ones. The heads there are bottlenecks of
convolutions; here a pool to 4 x 4, a linear layer of the deepest features' width, and a classifier, which suits nets of this size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from edge.compress.teaching import classes_of, hint_loss, taught_loss, watched
from edge.compress.technique import Record, Subject, TeachingStep
from edge.compress.train import BatchLoss, predict, top1
from edge.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import Tensor, nn

#: Maps are averaged to this height and width in front of a head's linear layer.
POOLED = 4


class SelfDistill(TeachingStep):
    """The net learns from the labels; each head ``(1 - alpha) CE + alpha T^2 KL + feature MSE``. The heads are thrown away in the end.

    Attributes:
        layers: that get a head, by name.
        feature: weight of the squared error between a head's features and what the net's last linear layer reads.
    """

    step: Literal["self-distill"] = "self-distill"
    layers: tuple[str, ...] = Field(min_length=1, max_length=50)
    temperature: float = Field(3.0, gt=0, le=100)
    alpha: float = Field(0.5, gt=0, le=1)
    feature: float = Field(0.03, ge=0, le=1e6)

    def run(self, subject: Subject) -> Record:
        self.begin(subject)
        import paddle

        classes = classes_of(subject.layer, subject)
        config = self.training(subject.seed)
        with watched(subject.layer, self.layers) as seen, _read_last(subject.layer) as read:
            predict(subject.layer, subject.train.images[:2])
            if missing := [name for name in self.layers if name not in seen]:
                raise BadInput(f"the net never calls {missing[0]!r}, so no head can be on it")
            if not read:
                raise BadInput(f"{subject.model} calls no linear layer, so its deepest features are not known")
            paddle.seed(subject.seed)
            heads = {name: head_for(seen[name].shape, read[0].shape[-1], classes) for name in self.layers}
            subject.fit(config, self._loss(subject, heads, seen, read), list(heads.values()))
            return {"heads_held_out": self._accuracies(subject, heads, seen)}

    def _accuracies(self, subject: Subject, heads: dict[str, nn.Layer], seen: dict[str, Tensor]) -> dict[str, float]:
        """Of each head on the held-out images, in %."""
        import paddle

        data = subject.held_out
        logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in heads}
        for start in range(0, len(data), self.batch_size):
            predict(subject.layer, data.images[start : start + self.batch_size], self.batch_size)
            with paddle.no_grad():
                for name, head in heads.items():
                    logits[name].append(head(seen[name])[1].numpy())
        return {name: top1(np.concatenate(parts), data.labels) for name, parts in logits.items()}

    def _loss(self, subject: Subject, heads: dict[str, nn.Layer], seen: dict[str, Tensor], read: list[Tensor]) -> BatchLoss:
        from paddle.nn import functional as F

        def loss(images: Tensor, labels: Tensor, _: Tensor) -> Tensor:
            logits = subject.layer(images)
            total = F.cross_entropy(logits, labels)
            target, deepest = F.softmax(logits.detach() / self.temperature), read[0].detach()
            for name, head in heads.items():
                features, shallow = head(seen[name])
                total = total + taught_loss(shallow, labels, target, self.temperature, self.alpha) + self.feature * hint_loss(features, deepest)
            return total

        return loss


@contextlib.contextmanager
def _read_last(layer: nn.Layer) -> Iterator[list[Tensor]]:
    """Within it the list holds what the linear layer that was called last has read: the deepest features."""
    from paddle import nn

    read: list[Tensor] = []

    def keep(_: nn.Layer, inputs: tuple[Tensor, ...]) -> None:
        read[:] = inputs[:1]

    handles = [sub.register_forward_pre_hook(keep) for sub in layer.sublayers(include_self=True) if isinstance(sub, nn.Linear)]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def head_for(shape: Sequence[int], width: int, classes: int) -> nn.Layer:
    """A classifier on a shallow layer that gives [N, C, H, W], [N, L, C] or [N, C]: what it gives -> (features [N, width], logits [N, classes])."""
    from paddle import nn
    from paddle.nn import functional as F

    class Head(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Linear(shape[1] * POOLED**2 if len(shape) == 4 else shape[-1], width)
            self.classifier = nn.Linear(width, classes)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            if x.ndim == 4:
                x = F.adaptive_avg_pool2d(x, POOLED).flatten(1)
            elif x.ndim == 3:
                x = x.mean(1)
            features = F.relu(self.features(x))
            return features, self.classifier(features)

    return Head()
