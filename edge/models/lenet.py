"""LeNet-5 (LeCun et al. 1998) with rectifiers and max pooling."""

from __future__ import annotations

from paddle import Tensor, nn
from paddle.nn import functional as F


class LeNet5(nn.Layer):  # type: ignore[misc]
    """conv5(1-6) relu pool2 conv5(6-16) relu pool2 fc(400-120-84-10): images [N, 1, 28, 28] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2D(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))
