"""DANet and every published variant of it in PyTorch: an independent reference, with the original key names.

`layout="authors"` gives the keys of the authors' 2018 code (`pretrained.*`, `head.*`), `layout="mmseg"` those
of mmsegmentation (`backbone.*`, `decode_head.*`, `auxiliary_head.*`). The mathematics is the same in both; what
differs between published checkpoints (stem, multi-grid, align_corners, auxiliary head) are plain arguments,
named as in `danet_jax.DANet`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.torch_resnet import ResNet


def position_attention(x, query, key, value):
    """Softmax over all places of q . k, not divided by anything, applied to v: `[B, C, H, W]`."""
    q, k, v = query(x).flatten(2), key(x).flatten(2), value(x).flatten(2)
    weights = torch.softmax(q.transpose(1, 2) @ k, dim=-1)  # [B, N of queries, N of keys]
    return (v @ weights.transpose(1, 2)).reshape(x.shape)


def channel_attention(x, energy):
    """Softmax over channels of X X^T ("paper") or of its row maximum minus it ("official"), applied to X."""
    flat = x.flatten(2)
    e = flat @ flat.transpose(1, 2)
    if energy == "official":
        e = e.max(dim=-1, keepdim=True).values - e
    return (torch.softmax(e, dim=-1) @ flat).reshape(x.shape)


class ConvBN(nn.Module):
    """3x3 convolution, BN, ReLU under mmsegmentation's names `conv` and `bn`."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def _numbered_conv_bn(inputs, outputs):
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class AuthorsPosition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.gamma * position_attention(x, self.query_conv, self.key_conv, self.value_conv) + x


class AuthorsChannel(nn.Module):
    def __init__(self, energy):
        super().__init__()
        self.energy = energy
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.gamma * channel_attention(x, self.energy) + x


class AuthorsHead(nn.Module):
    """The authors' head: conv5a, sa, conv51, conv6 position; conv5c, sc, conv52, conv7 channel; conv8 fusion."""

    def __init__(self, inputs, num_classes, position, channel, energy, dropout_rate):
        super().__init__()
        inner = inputs // 4

        def classifier():
            return nn.Sequential(nn.Dropout2d(dropout_rate), nn.Conv2d(inner, num_classes, 1))

        self.position, self.channel = position, channel
        if position:
            self.conv5a, self.sa = _numbered_conv_bn(inputs, inner), AuthorsPosition(inner)
            self.conv51, self.conv6 = _numbered_conv_bn(inner, inner), classifier()
        if channel:
            self.conv5c, self.sc = _numbered_conv_bn(inputs, inner), AuthorsChannel(energy)
            self.conv52, self.conv7 = _numbered_conv_bn(inner, inner), classifier()
        if position or channel:
            self.conv8 = classifier()
        else:
            self.conv5 = nn.Sequential(*_numbered_conv_bn(inputs, inner), *classifier())

    def forward(self, x):
        p = self.conv51(self.sa(self.conv5a(x))) if self.position else None
        c = self.conv52(self.sc(self.conv5c(x))) if self.channel else None
        if p is None and c is None:
            return self.conv5(x), None, None
        both = [y for y in (p, c) if y is not None]
        return (
            self.conv8(sum(both)),
            None if p is None else self.conv6(p),
            None if c is None else self.conv7(c),
        )


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))


class MMPosition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.key_project = nn.Conv2d(channels, channels // 8, 1)
        self.query_project = nn.Conv2d(channels, channels // 8, 1)
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.gamma = Scale()

    def forward(self, x):
        attended = position_attention(x, self.query_project, self.key_project, self.value_project)
        return self.gamma.scale * attended + x


class MMChannel(nn.Module):
    def __init__(self, energy):
        super().__init__()
        self.energy = energy
        self.gamma = Scale()

    def forward(self, x):
        return self.gamma.scale * channel_attention(x, self.energy) + x


class MMHead(nn.Module):
    """The same head under mmsegmentation's names."""

    def __init__(self, inputs, num_classes, position, channel, energy, dropout_rate):
        super().__init__()
        inner = inputs // 4
        self.position, self.channel = position, channel
        self.dropout = nn.Dropout2d(dropout_rate)
        self.conv_seg = nn.Conv2d(inner, num_classes, 1)
        if position:
            self.pam_in_conv, self.pam = ConvBN(inputs, inner), MMPosition(inner)
            self.pam_out_conv, self.pam_conv_seg = ConvBN(inner, inner), nn.Conv2d(inner, num_classes, 1)
        if channel:
            self.cam_in_conv, self.cam = ConvBN(inputs, inner), MMChannel(energy)
            self.cam_out_conv, self.cam_conv_seg = ConvBN(inner, inner), nn.Conv2d(inner, num_classes, 1)
        if not position and not channel:
            self.convs = nn.Sequential(ConvBN(inputs, inner))

    def forward(self, x):
        p = self.pam_out_conv(self.pam(self.pam_in_conv(x))) if self.position else None
        c = self.cam_out_conv(self.cam(self.cam_in_conv(x))) if self.channel else None
        both = [y for y in (p, c) if y is not None] or [self.convs(x)]
        return (
            self.conv_seg(self.dropout(sum(both))),
            None if p is None else self.pam_conv_seg(self.dropout(p)),
            None if c is None else self.cam_conv_seg(self.dropout(c)),
        )


class MMAuxiliary(nn.Module):
    def __init__(self, inputs, num_classes, dropout_rate):
        super().__init__()
        self.convs = nn.Sequential(ConvBN(inputs, inputs // 4))
        self.dropout = nn.Dropout2d(dropout_rate)
        self.conv_seg = nn.Conv2d(inputs // 4, num_classes, 1)

    def forward(self, x):
        return self.conv_seg(self.dropout(self.convs(x)))


class AuthorsAuxiliary(nn.Module):
    def __init__(self, inputs, num_classes, dropout_rate):
        super().__init__()
        last = [nn.Dropout2d(dropout_rate), nn.Conv2d(inputs // 4, num_classes, 1)]
        self.conv5 = nn.Sequential(*_numbered_conv_bn(inputs, inputs // 4), *last)

    def forward(self, x):
        return self.conv5(x)


class DANet(nn.Module):
    """Arguments as `danet_jax.DANet`, and `layout`, which names the modules; `[B, 3, H, W]` images.

    Returns (fusion, position, channel, auxiliary), each `[B, num_classes, H, W]` or None where it is off.
    """

    def __init__(
        self,
        num_classes,
        backbone="resnet50",
        stem="v1",
        output_stride=8,
        multi_grid=None,
        position_attention=True,
        channel_attention=True,
        channel_energy="official",
        align_corners=True,
        auxiliary=False,
        dropout_rate=0.1,
        *,
        layout="authors",
        imagenet_classifier=False,
    ):
        super().__init__()
        self.align_corners = align_corners
        names = {
            "authors": ("pretrained", "head", "auxlayer", AuthorsHead, AuthorsAuxiliary),
            "mmseg": ("backbone", "decode_head", "auxiliary_head", MMHead, MMAuxiliary),
        }[layout]
        *self._names, head, auxiliary_head = names
        resnet = ResNet(backbone, stem, output_stride, multi_grid, layout, imagenet_classifier)
        width = resnet.channels
        branches = position_attention, channel_attention, channel_energy
        self.add_module(self._names[0], resnet)
        self.add_module(self._names[1], head(width, num_classes, *branches, dropout_rate))
        if auxiliary:
            self.add_module(self._names[2], auxiliary_head(width // 2, num_classes, dropout_rate))

    def forward(self, x: Tensor, upsample=True) -> tuple[Tensor | None, ...]:
        backbone, head, auxiliary = (getattr(self, name, None) for name in self._names)
        layer3, layer4 = backbone(x)
        outputs = (*head(layer4), None if auxiliary is None else auxiliary(layer3))
        if not upsample:
            return outputs
        return tuple(
            None
            if y is None
            else F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=self.align_corners)
            for y in outputs
        )


@torch.no_grad()
def randomise(model: nn.Module, rng) -> nn.Module:
    """Random, well-scaled values in every parameter and statistic (from a numpy generator); evaluation mode.

    Attention has a weight that shows, and BN statistics differ from 0 and 1, so that a swapped or forgotten
    tensor changes the result.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def uniform(like, low, high):
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            # Queries and keys are kept small: a softmax of large energies is all rounding.
            gain = 0.3 if "query" in name or "key" in name else 1.4
            module.weight.copy_(
                gain / math.sqrt(fan_in) * torch.randn(module.weight.shape, generator=generator)
            )
            if module.bias is not None:
                module.bias.copy_(uniform(module.bias, -0.1, 0.1))
        elif isinstance(module, nn.BatchNorm2d):
            last_of_block = name.endswith(("bn3",)) or (name.endswith("bn2") and "layer" in name)
            low, high = (0.1, 0.3) if last_of_block else (0.5, 1.0)
            module.weight.copy_(uniform(module.weight, low, high))
            module.bias.copy_(uniform(module.bias, -0.2, 0.2))
            module.running_mean.copy_(uniform(module.running_mean, -0.2, 0.2))
            module.running_var.copy_(uniform(module.running_var, 0.7, 1.5))
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "gamma.scale")):
            parameter.copy_(uniform(parameter, 0.3, 0.8))
    return model.eval()
