"""The nets that the literature on compression is written about, and nets of their style for 28 x 28 pictures. Their widths are fixed here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from paddle import Tensor, nn
from paddle.nn import functional as F


class LeNet300(nn.Layer):  # type: ignore[misc]
    """fc 784-300-100-10 (LeCun et al. 1998), 266,610 parameters: images [N, 1, 28, 28] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class LeNet5Caffe(nn.Layer):  # type: ignore[misc]
    """conv5(1-20) pool2 conv5(20-50) pool2 fc(800-500-10), as in Caffe's examples, 431,080 parameters: images [N, 1, 28, 28] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(1, 20, 5)
        self.conv2 = nn.Conv2D(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def _block(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Layer:
    """Convolution, batch norm, relu; the norm has the bias."""
    conv = nn.Conv2D(in_channels, out_channels, size, stride=stride, padding=size // 2, bias_attr=False)
    return nn.Sequential(conv, nn.BatchNorm2D(out_channels), nn.ReLU())


def _stack(channels: Sequence[int]) -> nn.Layer:
    return nn.Sequential(*(_block(a, b) for a, b in pairwise(channels)))


class AlexNet28(nn.Layer):  # type: ignore[misc]
    """In the style of AlexNet (Krizhevsky et al. 2012): five convolutions, the first of them large and strided, and three wide linear layers.

    conv 5x5/2 24, 48 pool, 64, 64, 48 pool; fc 432-512-256-10. 459,218 parameters, 7.02 million multiplications; images [N, 1, 28, 28] -> logits
    [N, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.rest = _block(1, 24, 5, 2), _block(24, 48), _stack((48, 64, 64, 48))
        self.fc1 = nn.Linear(48 * 3 * 3, 512)
        self.fc2 = nn.Linear(512, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.second(self.first(x)), 2)
        x = F.max_pool2d(self.rest(x), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class Vgg28(nn.Layer):  # type: ignore[misc]
    """In the style of VGG (Simonyan and Zisserman 2014): convolutions in pairs, each followed by a pool.

    conv 24, 24 | 48, 48 | 96, 96; fc 864-256-10. 385,602 parameters, 16.65 million multiplications; images [N, 1, 28, 28] -> logits [N, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = _stack((1, 24, 24)), _stack((24, 48, 48)), _stack((48, 96, 96))
        self.fc1 = nn.Linear(96 * 3 * 3, 256)
        self.fc2 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        for stage in (self.first, self.second, self.third):
            x = F.max_pool2d(stage(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Residual(nn.Layer):  # type: ignore[misc]
    """Two 3x3 convolutions and what went in (He et al. 2015); a 1x1 convolution where the size changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(in_channels, out_channels, 3, stride=stride, padding=1, bias_attr=False)
        self.norm1 = nn.BatchNorm2D(out_channels)
        self.conv2 = nn.Conv2D(out_channels, out_channels, 3, padding=1, bias_attr=False)
        self.norm2 = nn.BatchNorm2D(out_channels)
        self.shortcut = None
        if stride > 1 or in_channels != out_channels:
            conv = nn.Conv2D(in_channels, out_channels, 1, stride=stride, bias_attr=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2D(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet28(nn.Layer):  # type: ignore[misc]
    """A small ResNet: stem 16 with stride 2, stages of two residual blocks of 16, 32 and 64 channels, mean, fc 64-10.

    174,970 parameters, 5.54 million multiplications; images [N, 1, 28, 28] -> logits [N, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(1, 16, stride=2)
        self.stages = nn.Sequential(
            Residual(16, 16), Residual(16, 16), Residual(16, 32, 2), Residual(32, 32), Residual(32, 64, 2), Residual(64, 64),
        )  # fmt: skip
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean([2, 3]))
