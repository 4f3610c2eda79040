"""The teacher and student of the demo: two convolutions, two linear layers."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F


class Conv3x3(nn.Conv2D):  # type: ignore[misc]
    """A 3x3 convolution with padding 1 that trains fast on CPU.

    In dynamic mode the bias is expanded before it is added: Paddle 3.3.1 on CPU takes 19 ms to broadcast [1, 32, 1, 1]
    over [64, 32, 28, 28] and 6 ms to expand it first (`scripts/bench_bias.py`). The sums are the same. A traced program
    holds the plain convolution, which runtimes can fuse.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not paddle.in_dynamic_mode():
            return super().forward(x)
        y = F.conv2d(x, self.weight, padding=1)
        return y + self.bias.reshape([1, -1, 1, 1]).expand(y.shape)


class ConvNet(nn.Layer):  # type: ignore[misc]
    """conv(1-C) relu pool2 conv(C-2C) relu pool2 fc(98C-128) relu fc(128-10), for images [N, 1, 28, 28].

    Args:
        channels: C, the width of the first convolution (32 for the teacher, 16 for the student).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(1, channels)
        self.conv2 = Conv3x3(channels, 2 * channels)
        self.fc1 = nn.Linear(2 * channels * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        """The 128-wide activations of fc1, the hint layer of distillation: [N, 1, 28, 28] -> [N, 128]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.relu(self.fc1(x.flatten(1)))

    def classify(self, features: Tensor) -> Tensor:
        """Logits from features: [N, 128] -> [N, 10]."""
        return self.fc2(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
