"""Residual nets for pictures, with the names and shapes of the weights that are published for them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.component import remember
from clearloop.models.mlp import check_positive


@remember
def resnet18(classes: int = 1000, channels: int = 3) -> nn.Module:
    """A residual net of 18 layers: the one to begin with.

    Any size of 1 x 1 pixels or more will do, as the last feature maps are averaged. Parameters and buffers have the
    names and shapes of torchvision's model, so that its published weights fit; see `load_weights`.

    Args:
        classes: the number of outputs.
        channels: 3 for colour, 1 for grey pictures.

    Returns:
        A model from float pictures of shape (batch_size, channels, H, W) to logits of shape (batch_size, classes).

    Raises:
        ConfigError: a number that is not a positive int.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015.

    >>> sum(parameter.numel() for parameter in resnet18().parameters())
    11689512
    """
    check_positive("classes and channels of resnet18", (classes, channels))  # eject: drop
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, channels)


@remember
def resnet34(classes: int = 1000, channels: int = 3) -> nn.Module:
    """A residual net of 34 layers: twice `resnet18`, with arguments, results and errors like its own.

    >>> sum(parameter.numel() for parameter in resnet34().parameters())
    21797672
    """
    check_positive("classes and channels of resnet34", (classes, channels))  # eject: drop
    return ResNet(BasicBlock, (3, 4, 6, 3), classes, channels)


@remember
def resnet50(classes: int = 1000, channels: int = 3) -> nn.Module:
    """A residual net of 50 layers, in blocks of three convolutions; arguments, results and errors as in `resnet18`.

    The stride is in the 3 x 3 convolution of a block, where the published weights have it, not in the first 1 x 1.

    >>> sum(parameter.numel() for parameter in resnet50().parameters())
    25557032
    """
    check_positive("classes and channels of resnet50", (classes, channels))  # eject: drop
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, channels)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, whose output is added to the input: (B, inputs, H, W) -> (B, width, H/s, W/s)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)  # the norm has a bias
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make of `x` to `x`."""
        change = F.relu(self.bn1(self.conv1(x)))
        change = self.bn2(self.conv2(change))
        kept: Tensor = x if self.downsample is None else self.downsample(x)
        return F.relu(kept + change)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the input: (B, inputs, H, W) -> (B, 4 * width, H/s, W/s)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add what three convolutions make of `x` to `x`."""
        change = F.relu(self.bn1(self.conv1(x)))
        change = F.relu(self.bn2(self.conv2(change)))
        change = self.bn3(self.conv3(change))
        kept: Tensor = x if self.downsample is None else self.downsample(x)
        return F.relu(kept + change)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output; None where it has it."""
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def stage(
    block: type[BasicBlock] | type[Bottleneck], blocks: int, inputs: int, width: int, stride: int
) -> nn.Sequential:
    """Blocks one after the other; the first has the stride."""
    outputs = width * block.expansion
    return nn.Sequential(block(inputs, width, stride), *[block(outputs, width) for _ in range(blocks - 1)])


class ResNet(nn.Module):
    """A convolution and a pooling, four stages of residual blocks, the mean of each feature map, and a linear layer.

    Args: `blocks`, how many in each of the four stages; each stage after the first halves height and width.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(block, blocks[0], 64, 64, 1)
        self.layer2 = stage(block, blocks[1], 64 * block.expansion, 128, 2)
        self.layer3 = stage(block, blocks[2], 128 * block.expansion, 256, 2)
        self.layer4 = stage(block, blocks[3], 256 * block.expansion, 512, 2)
        self.fc = nn.Linear(512 * block.expansion, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, classes) for pictures of shape (B, channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))  # (B, C, H, W) -> (B, 64, H/2, W/2), halves rounded up
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64, H/4, W/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512 or 2048, H/32, W/32)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
