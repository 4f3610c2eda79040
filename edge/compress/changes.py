"""What changed between two classifiers on the same images: not only how many are right, but which, how sure, why, and how easily they are misled.

Sources:
    Hooker, Courville, Clark, Dauphin and Frome 2019, "What Do Compressed Deep Neural Networks Forget?" (arXiv 1911.05248): two nets of equal accuracy
    can be wrong about different images and classes.
    Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599): the expected calibration error.
    Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (arXiv 1810.03292): maps are compared by the rank correlation of their pixels.
    Madry, Makelov, Schmidt, Tsipras and Vladu 2017, "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv 1706.06083): PGD.
    Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions" (arXiv 1903.12261): noise and blur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from edge.compress.tasks import BLANKS, Blank, recalls
from edge.compress.train import predict, top1
from edge.datasets import Split
from edge.errors import CheckFailed
from edge.vocabulary import Frozen, Percent

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import Tensor, nn

    Images = NDArray[np.float32]

#: Bins of the calibration error, as many as Guo et al. take.
BINS = 15
#: Most flips that are listed; all are counted.
MOST_FLIPS = 1000
#: Standard deviation of the noise and largest changes of an attack, as shares of the range of pixel values; blur and shift in pixels.
NOISE, ATTACKS, BLUR, SHIFT = 0.2, (0.02, 0.1), 1.0, 2
ATTACK_STEPS = 10
#: Images of a batch where gradients are needed.
BATCH = 250


class Pair(Frozen):
    """The same figure of both nets."""

    before: Percent
    after: Percent
    unit: Literal["%"] = "%"


class ClassChange(Pair):
    """Accuracy on the images of one class."""

    label: int
    samples: int


class Flip(Frozen):
    """An image whose prediction changed: its position in the split, its label, and both predictions."""

    index: int
    label: int
    before: int
    after: int


class Flips(Frozen):
    """How many predictions changed from right to wrong, from wrong to right, and from one wrong class to another; the first of them in order."""

    broken: int
    mended: int
    other: int
    listed: tuple[Flip, ...]
    unit: Literal["images"] = "images"


class Robustness(Pair):
    """Accuracy on images that were disturbed; an attack is made anew for each net, with its own gradients.

    ``settings``: ``_px`` are pixels, ``_of_range`` shares of the range of pixel values.
    """

    name: str
    settings: dict[str, float]
    samples: int


class Saliency(Frozen):
    """Spearman's rank correlation of the nets' maps, gradient times input, of the class that the first net predicts: mean over the images, -1 to 1.

    None where no map of theirs has two different values.
    """

    correlation: float | None
    samples: int
    unit: Literal["1"] = "1"


class Recall(Pair):
    """Recall@1 of a model of captions, see `edge.compress.tasks.recalls`. ``blank``: what it did not get to see."""

    direction: str
    blank: Blank = ""


class Changes(Frozen):
    """What is different after a compression.

    Attributes:
        agreement: share of the images that both nets see as the same class, in %.
        calibration: expected calibration error.
        saliency, robustness: only where they were asked for, on a part of the images.
        recall: of models that are trained for it.
    """

    samples: int
    agreement: Percent
    accuracy: Pair
    by_class: tuple[ClassChange, ...] = Field(min_length=1)
    flips: Flips
    calibration: Pair
    saliency: Saliency | None = None
    robustness: tuple[Robustness, ...] = ()
    recall: tuple[Recall, ...] = ()


def compare_logits(before: Images, after: Images, labels: NDArray[np.int64]) -> Changes:
    """What the logits [N, classes] of both nets tell.

    Raises:
        CheckFailed: logits that are NaN or infinite.
    """
    for name, logits in (("first", before), ("second", after)):
        if not np.isfinite(logits).all():
            raise CheckFailed(f"the {name} net gives NaN or infinity for {(~np.isfinite(logits).all(1)).sum()} of {len(logits)} images")
    old, new = before.argmax(1), after.argmax(1)
    return Changes(
        samples=len(labels),
        agreement=_percent(old == new),
        accuracy=Pair(before=_percent(old == labels), after=_percent(new == labels)),
        by_class=tuple(
            ClassChange(label=int(each), samples=int(of.sum()), before=_percent(old[of] == each), after=_percent(new[of] == each))
            for each in np.unique(labels)
            for of in [labels == each]
        ),
        flips=_flips(old, new, labels),
        calibration=Pair(before=calibration_error(before, labels), after=calibration_error(after, labels)),
    )


def compare(before: nn.Layer, after: nn.Layer, data: Split, seed: int, samples: int = 250, maps: int = 100) -> Changes:
    """Everything that changed between two classifiers.

    Args:
        samples: images, drawn by the seed, that are disturbed and attacked. maps: of them, those whose saliency maps are compared.

    Raises:
        CheckFailed: a net gives NaN or infinity.
    """
    found = compare_logits(predict(before, data.images), predict(after, data.images), data.labels)
    chosen = np.random.default_rng(seed).permutation(len(data))[:samples]
    part = Split(data.images[chosen], data.labels[chosen])
    low, high = float(data.images.min()), float(data.images.max())
    return found.model_copy(
        update={"saliency": saliency(before, after, part.images[:maps]), "robustness": _robustness((before, after), part, low, high, seed)}
    )


def calibration_error(logits: Images, labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Expected calibration error in %: how far confidence and accuracy lie apart, mean over bins of confidence by their number of images."""
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    right = logits.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)  # of a bin: its size times the gap of its means
    return 100.0 * float(np.abs(gaps).sum()) / len(labels)


def saliency(before: nn.Layer, after: nn.Layer, images: Images) -> Saliency:
    """How alike both nets weigh the pixels of [N, C, H, W] images."""
    from scipy.stats import spearmanr

    seen_as = predict(before, images).argmax(1)
    maps = [saliency_maps(net, images, seen_as).reshape(len(images), -1) for net in (before, after)]
    found = [float(spearmanr(a, b).statistic) for a, b in zip(*maps, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    return Saliency(correlation=float(np.mean(found)) if found else None, samples=len(found))


def saliency_maps(net: nn.Layer, images: Images, classes: NDArray[np.int64]) -> Images:
    """Gradient of each image's logit of a class, times the image: of the images' shape."""

    def score(logits: Tensor, classes: Tensor) -> Tensor:
        return logits.take_along_axis(classes.unsqueeze(1), 1).sum()

    parts = [_gradient(net, images[i : i + BATCH], classes[i : i + BATCH], score) for i in range(0, len(images), BATCH)]
    return images * np.concatenate(parts)


def attacked(net: nn.Layer, data: Split, largest: float, low: float, high: float, seed: int, steps: int = ATTACK_STEPS) -> Images:
    """The images after projected gradient descent on the cross-entropy, from a random start, in steps of ``2.5 largest / steps``.

    Args:
        largest: that a pixel changes by. low, high: where pixel values stay.
    """
    from paddle.nn import functional as F

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    random, parts = np.random.default_rng(seed), []
    for start in range(0, len(data), BATCH):
        images, labels = data.images[start : start + BATCH], data.labels[start : start + BATCH]
        least, most = np.maximum(images - largest, low).astype(np.float32), np.minimum(images + largest, high).astype(np.float32)
        now = random.uniform(least, most).astype(np.float32)
        for _ in range(steps):
            now = np.clip(now + np.float32(2.5 * largest / steps) * np.sign(_gradient(net, now, labels, loss)), least, most)
        parts.append(now)
    return np.concatenate(parts)


def noisy(images: Images, deviation: float, low: float, high: float, seed: int) -> Images:
    """Gaussian noise on every pixel, cut at the ends of the range."""
    noise = np.random.default_rng(seed).normal(0, deviation, images.shape)
    return np.clip(images + noise, low, high).astype(np.float32)


def blurred(images: Images, deviation: float) -> Images:
    """A Gaussian blur of [N, C, H, W], its standard deviation in pixels."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(images, (0, 0, deviation, deviation)), np.float32)


def shifted(images: Images, pixels: int, fill: float) -> Images:
    """[N, C, H, W] moved down and to the right; what comes in is ``fill``."""
    moved = np.full_like(images, fill)
    moved[..., pixels:, pixels:] = images[..., :-pixels, :-pixels]
    return moved


def compare_recall(before: nn.Layer, after: nn.Layer, data: Split, seed: int) -> tuple[Recall, ...]:
    """Of both models of captions: with all they are made for, without the image, and without the text."""
    found: list[Recall] = []
    for blank in BLANKS:
        old, new = (recalls(net, data, seed, blank=blank) for net in (before, after))
        found += [Recall(direction=way, blank=blank, before=old[way], after=new[way]) for way in old]
    return tuple(found)


def _robustness(nets: tuple[nn.Layer, nn.Layer], data: Split, low: float, high: float, seed: int) -> tuple[Robustness, ...]:
    span = high - low

    def of(name: str, settings: dict[str, float], disturbed: Callable[[nn.Layer], Images]) -> Robustness:
        before, after = (top1(predict(net, disturbed(net)), data.labels) for net in nets)
        return Robustness(name=name, settings=settings, samples=len(data), before=before, after=after)

    noise, blur, shift = noisy(data.images, NOISE * span, low, high, seed), blurred(data.images, BLUR), shifted(data.images, SHIFT, low)
    attacks = (
        of("pgd", {"eps_of_range": eps, "steps": ATTACK_STEPS}, lambda net, eps=eps: attacked(net, data, eps * span, low, high, seed))  # type: ignore[misc]
        for eps in ATTACKS
    )
    return (
        of("noise", {"sigma_of_range": NOISE}, lambda _: noise),
        of("blur", {"sigma_px": BLUR}, lambda _: blur),
        of("shift", {"down_px": SHIFT, "right_px": SHIFT}, lambda _: shift),
        *attacks,
    )


def _flips(old: NDArray[np.int64], new: NDArray[np.int64], labels: NDArray[np.int64]) -> Flips:
    places = np.flatnonzero(old != new)
    broken, mended = int((old[places] == labels[places]).sum()), int((new[places] == labels[places]).sum())
    listed = tuple(Flip(index=int(i), label=int(labels[i]), before=int(old[i]), after=int(new[i])) for i in places[:MOST_FLIPS])
    return Flips(broken=broken, mended=mended, other=len(places) - broken - mended, listed=listed)


def _gradient(net: nn.Layer, images: Images, classes: NDArray[np.int64], scalar_of: Callable[[Tensor, Tensor], Tensor]) -> Images:
    """Of a function of the logits and the classes, by the images."""
    import paddle

    net.eval()
    x = paddle.to_tensor(images, stop_gradient=False)
    (gradient,) = paddle.grad(scalar_of(net(x), paddle.to_tensor(classes)), [x])
    return np.asarray(gradient.numpy())


def _percent(right: NDArray[np.bool_]) -> float:
    return 100.0 * float(right.mean())
