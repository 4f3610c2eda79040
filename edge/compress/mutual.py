"""Online distillation: peers are trained together and learn from each other, with no teacher there before.

Source: Zhang, Xiang, Hospedales and Lu 2018, "Deep Mutual Learning" (arXiv 1706.00384): each net's loss is the cross-entropy with the labels plus the
mean divergence from every other's softmax. There the nets take their steps in turn, here all at once on the same outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from edge.compress.tasks import check_fits
from edge.compress.teaching import classes_of, divergence, untrained
from edge.compress.technique import Record, Subject, TeachingStep
from edge.compress.train import BatchLoss, predict, top1
from edge.errors import BadInput
from edge.models import model_entry

if TYPE_CHECKING:
    from paddle import Tensor, nn


class Mutual(TeachingStep):
    """Train the net with its peers, which begin untrained and are thrown away in the end.

    Attributes:
        peers: zoo models, by default one more net of the same structure.
        weight: of the mean divergence from the peers.
    """

    step: Literal["mutual"] = "mutual"
    peers: tuple[str, ...] = Field((), max_length=8)
    weight: float = Field(1.0, gt=0, le=100)
    temperature: float = Field(1.0, gt=0, le=100)

    @field_validator("peers")
    @classmethod
    def _known(cls, peers: tuple[str, ...]) -> tuple[str, ...]:
        for peer in peers:
            try:
                model_entry(peer)
            except BadInput as error:
                raise ValueError(str(error)) from error
        return peers

    def run(self, subject: Subject) -> Record:
        self.begin(subject)
        for name in self.peers:
            check_fits(name, subject.train)
        peers = [untrained(name, subject.seed + number) for number, name in enumerate(self.peers, 1)] or [subject.untrained(subject.seed + 1)]
        names = self.peers or (subject.model,)
        widths = [classes_of(net, subject) for net in (subject.layer, *peers)]
        if len(set(widths)) > 1:
            raise BadInput(f"peers tell the same classes apart; {subject.model} and {', '.join(names)} have {widths} of them")
        config = self.training(subject.seed)
        subject.fit(config, self._loss([subject.layer, *peers]), peers)
        held_out = [top1(predict(peer, subject.held_out.images), subject.held_out.labels) for peer in peers]
        return {"peers": list(names), "peers_held_out": held_out}

    def _loss(self, nets: list[nn.Layer]) -> BatchLoss:
        def loss(images: Tensor, labels: Tensor, _: Tensor) -> Tensor:
            return mutual_loss([net(images) for net in nets], labels, self.temperature, self.weight)

        return loss


def mutual_loss(logits: list[Tensor], labels: Tensor, temperature: float = 1.0, weight: float = 1.0) -> Tensor:
    """Sum over the nets of ``CE + weight T^2 mean of KL(softmax of another / T || own)``; no gradient passes to the other.

    Args:
        logits: of each net, [N, classes]. labels: [N].
    """
    from paddle.nn import functional as F

    targets = [F.softmax(each.detach() / temperature) for each in logits]
    scale = weight * temperature * temperature / (len(logits) - 1)
    total = 0.0
    for own, each in enumerate(logits):
        others = [divergence(each, target, temperature) for other, target in enumerate(targets) if other != own]
        total = total + F.cross_entropy(each, labels) + scale * sum(others)
    return total
