"""A small net for Fashion-MNIST: batch norms, depthwise-separable convolutions and one residual addition."""

from __future__ import annotations

from paddle import Tensor, nn
from paddle.nn import functional as F


def _conv_norm(in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> nn.Layer:
    """A convolution of unchanged size whose bias is the batch norm's."""
    conv = nn.Conv2D(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias_attr=False)
    return nn.Sequential(conv, nn.BatchNorm2D(out_channels))


class Separable(nn.Layer):  # type: ignore[misc]
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and relu (Howard et al. 2017): [N, C, H, W] -> [N, D, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = _conv_norm(in_channels, in_channels, 3, groups=in_channels)
        self.pointwise = _conv_norm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pointwise(F.relu(self.depthwise(x))))


class FashionNet(nn.Layer):  # type: ignore[misc]
    """Images [N, 1, 28, 28] -> logits [N, 10], 147 k weights.

    Two layers are depthwise-separable, not more: Paddle 3.3.1 computes a depthwise convolution on CPU channel by channel, and on 64 channels of
    7x7 that takes as long to train as a dense one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_norm(1, 24, 3)
        self.widen = Separable(24, 64)
        self.refine = Separable(64, 64)
        self.deepen = _conv_norm(64, 96, 3)
        self.fc1 = nn.Linear(96 * 3 * 3, 96)
        self.fc2 = nn.Linear(96, 10)

    def features(self, x: Tensor) -> Tensor:
        """[N, 1, 28, 28] -> [N, 96], what the last layer classifies."""
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.max_pool2d(self.widen(x), 2)
        x = F.max_pool2d(x + self.refine(x), 2)
        return F.relu(self.fc1(F.relu(self.deepen(x)).flatten(1)))

    def classify(self, features: Tensor) -> Tensor:
        """[N, 96] -> logits [N, 10]."""
        return self.fc2(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
