"""A small image-text model: two towers whose embeddings lie close where a caption tells what is in an image."""

from __future__ import annotations

import math

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn
from paddle.nn import functional as F

from edge.models.convnet import Conv3x3
from edge.models.sequences import LENGTH, VOCABULARY

#: The articles of Fashion-MNIST by their labels, and what a caption says of one.
ARTICLES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
TEMPLATES = ("{}", "a {}", "the {}", "one {}")


class ImageText(nn.Layer):  # type: ignore[misc]
    """In the style of CLIP (Radford et al. 2021), for images [N, 1, 28, 28] and captions as ASCII codes [N, 16]; 0 is no letter.

    Image: conv(1-16) relu pool2 conv(16-32) relu pool2 fc(1568-64). Text: a 16-wide embedding a letter, fc(256-64) relu fc(64-64). Embeddings have
    length 1. 127,873 parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv3x3(1, 16), Conv3x3(16, 32)
        self.image_head = nn.Linear(32 * 7 * 7, 64)
        self.letters = nn.Embedding(VOCABULARY, 16)
        self.text_fc, self.text_head = nn.Linear(16 * LENGTH, 64), nn.Linear(64, 64)
        self.log_scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(math.log(10)))
        self.register_buffer("captions", paddle.to_tensor(captions()), persistable=False)

    def embed_image(self, image: Tensor) -> Tensor:
        """[N, 1, 28, 28] -> [N, 64]."""
        x = F.max_pool2d(F.relu(self.conv1(image)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return _unit(self.image_head(x.flatten(1)))

    def embed_text(self, ids: Tensor) -> Tensor:
        """[N, 16] -> [N, 64]."""
        return _unit(self.text_head(F.relu(self.text_fc(self.letters(ids).flatten(1)))))

    def scores(self, image: Tensor, captions: Tensor | None = None) -> Tensor:
        """Of each image with each caption, scaled for a softmax: [N, templates, articles]. ``captions``: instead of the model's own."""
        read = self.embed_text(self.captions if captions is None else captions)
        cosines = paddle.matmul(self.embed_image(image), read, transpose_y=True)
        return (self.log_scale.exp() * cosines).reshape([-1, len(TEMPLATES), len(ARTICLES)])

    def forward(self, image: Tensor, ids: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Both embeddings [N, 64] and their cosine [N], pair by pair; without ids the articles' scores, mean over the templates: [N, 10]."""
        if ids is None:
            return self.scores(image).mean(1)
        seen, read = self.embed_image(image), self.embed_text(ids)
        return seen, read, paddle.sum(seen * read, axis=1)


def captions() -> NDArray[np.int64]:
    """Every article in every template, template by template: [templates * articles, 16]."""
    texts = [template.format(article) for template in TEMPLATES for article in ARTICLES]
    return np.array([[*text.encode("ascii"), *[0] * (LENGTH - len(text))] for text in texts], np.int64)


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1; see `edge.models.sequences`."""
    return x * paddle.rsqrt(paddle.sum(x * x, axis=1, keepdim=True) + 1e-12)
