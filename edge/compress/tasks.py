"""What a model is trained for and judged by: the class of an image, or which caption goes with which image.

Both kinds of model give logits for a batch of images, so every technique can use them alike; a model of captions scores each image with the captions
of all classes. What is different is the loss on the labels, and what is told of it in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from edge.datasets import Split
from edge.errors import BadInput
from edge.models import model_entry

if TYPE_CHECKING:
    from paddle import Tensor, nn

#: Random galleries, of one image a class, in which captions look for their image.
GALLERIES = 1000
#: What a model of captions may have to do without.
Blank = Literal["", "image", "text"]
BLANKS: tuple[Blank, ...] = ("", "image", "text")
BATCH = 250


def check_fits(model: str, data: Split) -> None:
    """That a zoo model can be trained on these images.

    Raises:
        BadInput: it takes other inputs, or there are no classes, or other ones.
    """
    entry = model_entry(model)
    name, (shape, _) = next(iter(entry.inputs.items()))
    taken, given = ("x".join(map(str, sides)) for sides in (shape[1:], data.images.shape[1:]))
    count = int(data.labels.max()) + 1
    if taken != given:
        raise BadInput(f"{model} cannot be trained on these images: they are {given}, its {name} is {taken}")
    if entry.classes is None or count < 2:
        raise BadInput(f"{model} cannot be trained on these images: there are no classes to learn")
    if count > entry.classes:
        raise BadInput(f"{model} cannot be trained on these images: they are of {count} classes, it tells {entry.classes} apart")


def label_loss(model: str, layer: nn.Layer, images: Tensor, labels: Tensor) -> Tensor:
    """The loss on a batch that is the model's own."""
    from paddle.nn import functional as F

    if model_entry(model).task == "retrieval":
        return contrastive_loss(layer.scores(images), labels)
    loss: Tensor = F.cross_entropy(layer(images), labels)
    return loss


def contrastive_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean of the cross-entropies of captions given images and of images given captions.

    Images of one class share their captions, so a caption has all images of its class for positives, as in Yang et al. 2022, "Unified Contrastive
    Learning in Image-Text-Label Space" (arXiv 2204.03610), which is CLIP's loss (Radford et al. 2021) where no two captions are alike.

    Args:
        scores: [N, templates, classes]. labels: [N].
    """
    from paddle.nn import functional as F

    _, templates, classes = scores.shape
    to_text = F.cross_entropy(scores.reshape([-1, classes]), labels.unsqueeze(1).expand([-1, templates]).reshape([-1]))
    positive = F.one_hot(labels, classes).unsqueeze(1)  # [N, 1, classes]
    counts = positive.sum(0)
    of_caption = -(positive * F.log_softmax(scores, axis=0)).sum(0) / counts.clip(min=1)
    to_image = of_caption.sum() / ((counts > 0).astype(scores.dtype).sum() * templates)
    return (to_text + to_image) / 2


def recalls(layer: nn.Layer, data: Split, seed: int, *, blank: Blank = "") -> dict[str, float]:
    """Recall@1 in % of a model of captions: among the captions of all classes, and among one image of each class.

    Args:
        blank: ``image`` or ``text``: what the model does not get to see: an image of mean grey, a caption without letters.
        seed: of the galleries.
    """
    import paddle

    images = np.zeros_like(data.images) if blank == "image" else data.images
    captions = paddle.zeros_like(layer.captions) if blank == "text" else layer.captions
    layer.eval()
    with paddle.no_grad():
        parts = [layer.scores(paddle.to_tensor(images[i : i + BATCH]), captions).numpy() for i in range(0, len(images), BATCH)]
    scores = np.concatenate(parts)
    classes = np.unique(data.labels)
    random = np.random.default_rng(seed)
    gallery = np.stack([random.choice(np.flatnonzero(data.labels == each), GALLERIES) for each in classes], 1)
    found = scores[gallery][..., classes].argmax(1)  # [galleries, templates, classes] -> place in the gallery
    return {
        "image to text": 100.0 * float(np.mean(scores.argmax(2) == data.labels[:, None])),
        "text to image": 100.0 * float(np.mean(found == np.arange(len(classes)))),
    }
