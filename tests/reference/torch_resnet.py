"""The dilated ResNet in PyTorch, of the names of the authors' code or of mmsegmentation: an independent reference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
DEEP_STEMS = {"v1c": (32, 32, 64), "v1s": (64, 64, 128)}


class Basic(nn.Module):
    """Two 3x3 convolutions; the second has the dilation of its layer, also in the layer's first block, or none."""

    expansion = 1

    def __init__(self, inputs, width, stride, dilation, second_dilation, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, second_dilation, second_dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (stride and dilation), 1x1."""

    expansion = 4

    def __init__(self, inputs, width, stride, dilation, layer_dilation, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """The backbone. Deep stems are `conv1.{0,1,3,4,6}` + `bn1` (Encoding) or `stem.{0,1,3,4,6,7}` (mmsegmentation)."""

    def __init__(
        self,
        backbone="resnet50",
        stem="v1",
        output_stride=8,
        multi_grid=None,
        layout="authors",
        imagenet_classifier=False,
    ):
        super().__init__()
        if stem == "v1":
            channels = 64
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
        else:
            modules, channels = [], 3
            for index, width in enumerate(DEEP_STEMS[stem]):
                conv = nn.Conv2d(channels, width, 3, 2 if index == 0 else 1, 1, bias=False)
                modules += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if layout == "mmseg":
                self.stem = nn.Sequential(*modules)
            else:
                self.conv1 = nn.Sequential(*modules[:-2])
                self.bn1 = modules[-2]
        block = Basic if backbone in ("resnet18", "resnet34") else Bottleneck
        strides = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}[output_stride]
        dilations = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}[output_stride]
        for layer, (count, stride, dilation) in enumerate(
            zip(BLOCKS[backbone], strides, dilations, strict=True), start=1
        ):
            width = 32 * 2**layer
            per_block = [max(1, dilation // 2)] + [dilation] * (count - 1)
            if layer == 4 and multi_grid is not None:
                per_block = list(multi_grid)[:count]
            blocks = []
            for index, block_dilation in enumerate(per_block):
                first_stride = stride if index == 0 else 1
                project = index == 0 and (first_stride != 1 or channels != width * block.expansion)
                second = 1 if layout == "mmseg" else dilation
                blocks.append(block(channels, width, first_stride, block_dilation, second, project))
                channels = width * block.expansion
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))
        self.channels = channels
        if imagenet_classifier:
            self.fc = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[B, 3, H, W]` to the features of layer3 and layer4."""
        x = self.stem(x) if hasattr(self, "stem") else F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        layer3 = self.layer3(self.layer2(self.layer1(x)))
        return layer3, self.layer4(layer3)
