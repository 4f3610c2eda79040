"""Small nets over token ids, and one over an image and token ids: what recurrent, attention and two-input models ask of a runtime."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

#: Token ids are 0 .. VOCABULARY - 1; a sequence has LENGTH of them.
VOCABULARY = 128
LENGTH = 16


class LstmClassifier(nn.Layer):  # type: ignore[misc]
    """Ids [N, 16] -> embedding -> LSTM -> last state -> logits [N, 4].

    The initial states are made like the first token's embedding, of the same width: what `nn.LSTM` makes by itself when the batch is dynamic
    (a fill_constant whose shape is a tensor) converts, but Paddle Lite 2.13 aborts on it at run time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.lstm = nn.LSTM(32, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.embedding(ids)
        start = paddle.zeros_like(tokens[:, :1]).transpose([1, 0, 2])
        states, _ = self.lstm(tokens, (start, start))
        return self.head(states[:, -1])


class TransformerClassifier(nn.Layer):  # type: ignore[misc]
    """Ids [N, 16] -> embedding and learned positions -> two encoder layers -> mean -> logits [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.positions = self.create_parameter([1, LENGTH, 32])
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0), 2)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids) + self.positions).mean(1))


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1: [N, C] -> [N, C]. `F.normalize` cannot be traced into a legacy program in Paddle 3.3.1."""
    return x * paddle.rsqrt(paddle.sum(x * x, axis=1, keepdim=True) + 1e-12)


class TwoTower(nn.Layer):  # type: ignore[misc]
    """Images [N, 3, 32, 32] and ids [N, 16] -> two embeddings [N, 32] of length 1, and their cosine [N], pair by pair."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(3, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2D(16, 32, 3, stride=2, padding=1)
        self.image_head = nn.Linear(32, 32)
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.text_head = nn.Linear(32, 32)

    def forward(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = F.relu(self.conv2(F.relu(self.conv1(image)))).mean([2, 3])
        seen = _unit(self.image_head(seen))
        read = _unit(self.text_head(self.embedding(ids).mean(1)))
        return seen, read, paddle.sum(seen * read, axis=1)
