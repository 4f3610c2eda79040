"""How a picture becomes an input of a model that was trained on one of the known data sets, and what its classes are called."""

from __future__ import annotations

from edge.datasets import fashion_mnist, mnist
from edge.datasets.preprocessing import Preprocessing

DIGITS = tuple("0123456789")
#: As the data set's authors number them.
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_MNIST = Preprocessing((28, 28), (mnist.MEAN,), (mnist.STD,), order="grey")
_KNOWN = {
    "mnist": (_MNIST, DIGITS),
    "digits": (_MNIST, DIGITS),
    "fashion_mnist": (Preprocessing((28, 28), (fashion_mnist.MEAN,), (fashion_mnist.STD,), order="grey"), CLOTHES),
}


def known_pictures(dataset: str | None) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
    """(preprocessing, labels) of a data set, as `edge.artifact.Origin.dataset` names it; None where nothing is known."""
    return _KNOWN.get((dataset or "").partition(":")[0], (None, None))
