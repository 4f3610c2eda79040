"""What a net learns from another one: losses on softened logits and on hidden layers. Shared by everything that distils.

Sources:
    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531): the divergence from the teacher's softmax at
    temperature T, times T^2, so that its gradients keep their size when T changes.
    Romero et al. 2014, "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550): a hidden layer of the student is drawn to one of the teacher's,
    through a regressor where their widths differ.
    Zagoruyko and Komodakis 2016, "Paying More Attention to Attention" (arXiv 1612.03928): where a convolution looks, not what it sees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.compress.train import predict
from edge.errors import BadInput
from edge.models import model_entry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import Tensor, nn

    from edge.compress.technique import Subject


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """``KL(target || softmax(logits / T))``, mean over the batch.

    Args:
        logits: [N, classes]. target: probabilities [N, classes], softened by the same temperature.
    """
    from paddle.nn import functional as F

    loss: Tensor = F.kl_div(F.log_softmax(logits / temperature), target, reduction="batchmean")
    return loss


def taught_loss(logits: Tensor, labels: Tensor, target: Tensor, temperature: float, alpha: float) -> Tensor:
    """``(1 - alpha) CE(logits, labels) + alpha T^2 divergence(logits, target, T)``: [N, classes], [N], [N, classes] -> scalar."""
    from paddle.nn import functional as F

    soft = divergence(logits, target, temperature)
    return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature * temperature * soft


def softened(logits: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float32]:
    """Mean of the teachers' softmax at a temperature: each [N, classes] -> [N, classes]."""
    from scipy.special import softmax

    return np.asarray(np.mean([softmax(each / temperature, axis=1) for each in logits], axis=0), np.float32)


def attention(x: Tensor) -> Tensor:
    """Where a layer looks: the mean square over the channels, scaled to length 1: [N, C, H, W] -> [N, H W]."""
    from paddle.nn import functional as F

    return F.normalize(x.square().mean(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the attention maps, mean over the batch. The larger map is averaged to the size of the smaller."""
    a, b = _of_one_size(student, teacher)
    return (attention(a) - attention(b)).square().sum(1).mean()


def hint_loss(student: Tensor, teacher: Tensor, regressor: nn.Layer | None = None) -> Tensor:
    """Mean squared error of hidden layers, the student's through the regressor; larger maps are averaged to the size of the smaller."""
    from paddle.nn import functional as F

    a, b = _of_one_size(student, teacher)
    loss: Tensor = F.mse_loss(regressor(a) if regressor else a, b)
    return loss


def regressor_for(student: Tensor, teacher: Tensor) -> nn.Layer | None:
    """What brings the student's width to the teacher's: a 1x1 convolution for maps, else a linear layer; None where they agree already."""
    from paddle import nn

    axis = 1 if student.ndim == 4 else -1
    widths = student.shape[axis], teacher.shape[axis]
    if widths[0] == widths[1]:
        return None
    return nn.Conv2D(*widths, 1) if student.ndim == 4 else nn.Linear(*widths)


def _of_one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    from paddle.nn import functional as F

    if a.ndim != 4 or a.shape[2:] == b.shape[2:]:
        return a, b
    size = [min(pair) for pair in zip(a.shape[2:], b.shape[2:], strict=True)]
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


@contextlib.contextmanager
def watched(layer: nn.Layer, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within it the dict holds what each named sublayer gave when the layer was last called.

    Raises:
        BadInput: the layer has no such sublayer.
    """
    sublayers = dict(layer.named_sublayers())
    if unknown := [name for name in names if name not in sublayers]:
        raise BadInput(f"{type(layer).__name__} has no layer {unknown[0]!r}", hint=f"there are: {', '.join(list(sublayers)[:40])}")
    seen: dict[str, Tensor] = {}
    handles = [sublayers[name].register_forward_post_hook(partial(_keep, seen, name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(seen: dict[str, Any], name: str, _: nn.Layer, __: Any, output: Any) -> None:
    seen[name] = output


def untrained(model: str, seed: int) -> nn.Layer:
    """A zoo model with initial weights of this seed."""
    import paddle

    paddle.seed(seed)
    return model_entry(model).build()


def classes_of(layer: nn.Layer, subject: Subject) -> int:
    """Width of the logits that the layer gives for the subject's images."""
    return int(predict(layer, subject.train.images[:1]).shape[-1])
