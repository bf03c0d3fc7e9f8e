"""What each tensor of the network is called, and its shape, in the state dicts that people have.

authors   `pretrained.*`, `head.*`                           github.com/junfu1115/DANet
mmseg     `backbone.*`, `decode_head.*`, `auxiliary_head.*`  mmsegmentation 0.x and 1.x
backbone  `conv1.weight`, `layer1.0.*`, `fc.*`               torchvision, timm, PyTorch-Encoding, mmpretrain
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from danet_jax.models.resnet import BLOCKS, STEMS, is_bottleneck

# What each part of the heads is called. A name that ends in "conv" or "bn" is such a module, one that ends in
# "alpha" or "beta" a scalar, every other a 1x1 convolution with bias.
HEADS = {
    "authors": {
        "head/position_in/conv": "head.conv5a.0",
        "head/position_in/bn": "head.conv5a.1",
        "head/position_attention/query": "head.sa.query_conv",
        "head/position_attention/key": "head.sa.key_conv",
        "head/position_attention/value": "head.sa.value_conv",
        "head/position_attention/alpha": "head.sa.gamma",
        "head/position_out/conv": "head.conv51.0",
        "head/position_out/bn": "head.conv51.1",
        "head/position_classifier": "head.conv6.1",
        "head/channel_in/conv": "head.conv5c.0",
        "head/channel_in/bn": "head.conv5c.1",
        "head/channel_attention/beta": "head.sc.gamma",
        "head/channel_out/conv": "head.conv52.0",
        "head/channel_out/bn": "head.conv52.1",
        "head/channel_classifier": "head.conv7.1",
        "head/fusion_classifier": "head.conv8.1",
        "head/fcn_in/conv": "head.conv5.0",
        "head/fcn_in/bn": "head.conv5.1",
        "head/fcn_classifier": "head.conv5.4",
        "auxiliary/in/conv": "auxlayer.conv5.0",
        "auxiliary/in/bn": "auxlayer.conv5.1",
        "auxiliary/classifier": "auxlayer.conv5.4",
    },
    "mmseg": {
        "head/position_in/conv": "decode_head.pam_in_conv.conv",
        "head/position_in/bn": "decode_head.pam_in_conv.bn",
        "head/position_attention/query": "decode_head.pam.query_project",
        "head/position_attention/key": "decode_head.pam.key_project",
        "head/position_attention/value": "decode_head.pam.value_project",
        "head/position_attention/alpha": "decode_head.pam.gamma.scale",
        "head/position_out/conv": "decode_head.pam_out_conv.conv",
        "head/position_out/bn": "decode_head.pam_out_conv.bn",
        "head/position_classifier": "decode_head.pam_conv_seg",
        "head/channel_in/conv": "decode_head.cam_in_conv.conv",
        "head/channel_in/bn": "decode_head.cam_in_conv.bn",
        "head/channel_attention/beta": "decode_head.cam.gamma.scale",
        "head/channel_out/conv": "decode_head.cam_out_conv.conv",
        "head/channel_out/bn": "decode_head.cam_out_conv.bn",
        "head/channel_classifier": "decode_head.cam_conv_seg",
        "head/fusion_classifier": "decode_head.conv_seg",
        "head/fcn_in/conv": "decode_head.convs.0.conv",
        "head/fcn_in/bn": "decode_head.convs.0.bn",
        "head/fcn_classifier": "decode_head.conv_seg",
        "auxiliary/in/conv": "auxiliary_head.convs.0.conv",
        "auxiliary/in/bn": "auxiliary_head.convs.0.bn",
        "auxiliary/classifier": "auxiliary_head.conv_seg",
    },
}
LAYOUTS = (*HEADS, "backbone")
PREFIXES = {"authors": "pretrained.", "mmseg": "backbone.", "backbone": ""}

# Where a deep stem's convolutions and BNs are: inside a Sequential, of which Encoding keeps the last BN apart.
DEEP_STEMS = {
    "encoding": (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")),
    "mmseg": (("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")),
}


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What the keys of a state dict say: the layout, the style of a deep stem's names, the network's options."""

    layout: str
    stem_style: str
    options: dict[str, Any]

    @property
    def has_head(self) -> bool:
        return "num_classes" in self.options


class Tensor(NamedTuple):
    """A tensor's name and shape in the state dict, and its path in the variables."""

    key: str
    path: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Its shape in the variables."""
        if self.path[-1] in ("alpha", "beta"):
            return ()
        return tuple(self.shape[axis] for axis in (2, 3, 1, 0)) if len(self.shape) == 4 else self.shape


def tensors(recognised: Recognised) -> Iterator[Tensor]:
    yield from _backbone(recognised)
    if recognised.has_head:
        yield from _head(recognised)


def _conv(
    key: str, path: str, inputs: int, outputs: int, size: int = 1, bias: bool = False
) -> Iterator[Tensor]:
    parts = ("params", *path.split("/"))
    yield Tensor(f"{key}.weight", (*parts, "kernel"), (outputs, inputs, size, size))
    if bias:
        yield Tensor(f"{key}.bias", (*parts, "bias"), (outputs,))


def _bn(key: str, path: str, features: int) -> Iterator[Tensor]:
    parts, shape = tuple(path.split("/")), (features,)
    yield Tensor(f"{key}.weight", ("params", *parts, "scale"), shape)
    yield Tensor(f"{key}.bias", ("params", *parts, "bias"), shape)
    yield Tensor(f"{key}.running_mean", ("batch_stats", *parts, "mean"), shape)
    yield Tensor(f"{key}.running_var", ("batch_stats", *parts, "var"), shape)


def _backbone(recognised: Recognised) -> Iterator[Tensor]:
    prefix, backbone = PREFIXES[recognised.layout], recognised.options["backbone"]
    widths = STEMS[recognised.options["stem"]]
    names = (("conv1", "bn1"),) if len(widths) == 1 else DEEP_STEMS[recognised.stem_style]
    channels = 3
    for index, ((conv, bn), width) in enumerate(zip(names, widths, strict=True), start=1):
        size = 7 if len(widths) == 1 else 3
        yield from _conv(f"{prefix}{conv}", f"backbone/stem/conv{index}", channels, width, size)
        yield from _bn(f"{prefix}{bn}", f"backbone/stem/bn{index}", width)
        channels = width
    bottleneck = is_bottleneck(backbone)
    for layer, blocks in enumerate(BLOCKS[backbone], start=1):
        width = 32 * 2**layer
        outputs = 4 * width if bottleneck else width
        for block in range(blocks):
            key, path = f"{prefix}layer{layer}.{block}", f"backbone/layer{layer}_{block}"
            convolutions = (
                ((channels, width, 1), (width, width, 3), (width, outputs, 1))
                if bottleneck
                else ((channels, width, 3), (width, width, 3))
            )
            for index, (fan_in, fan_out, size) in enumerate(convolutions, start=1):
                yield from _conv(f"{key}.conv{index}", f"{path}/conv{index}", fan_in, fan_out, size)
                yield from _bn(f"{key}.bn{index}", f"{path}/bn{index}", fan_out)
            if channels != outputs:
                yield from _conv(f"{key}.downsample.0", f"{path}/downsample_conv", channels, outputs)
                yield from _bn(f"{key}.downsample.1", f"{path}/downsample_bn", outputs)
            channels = outputs


def _head(recognised: Recognised) -> Iterator[Tensor]:
    names, options = HEADS[recognised.layout], recognised.options
    classes = options["num_classes"]
    features = 2048 if is_bottleneck(options["backbone"]) else 512
    inner = features // 4

    def conv_bn(path: str, inputs: int, outputs: int) -> Iterator[Tensor]:
        yield from _conv(names[f"{path}/conv"], f"{path}/conv", inputs, outputs, 3)
        yield from _bn(names[f"{path}/bn"], f"{path}/bn", outputs)

    def pointwise(path: str, inputs: int, outputs: int, named: str | None = None) -> Iterator[Tensor]:
        yield from _conv(names[named or path], path, inputs, outputs, bias=True)

    def scalar(path: str) -> Tensor:
        shape = (1,) if recognised.layout == "authors" else ()
        return Tensor(names[path], ("params", *path.split("/")), shape)

    if options["position_attention"]:
        yield from conv_bn("head/position_in", features, inner)
        yield from pointwise("head/position_attention/query", inner, inner // 8)
        yield from pointwise("head/position_attention/key", inner, inner // 8)
        yield from pointwise("head/position_attention/value", inner, inner)
        yield scalar("head/position_attention/alpha")
        yield from conv_bn("head/position_out", inner, inner)
        yield from pointwise("head/position_classifier", inner, classes)
    if options["channel_attention"]:
        yield from conv_bn("head/channel_in", features, inner)
        yield scalar("head/channel_attention/beta")
        yield from conv_bn("head/channel_out", inner, inner)
        yield from pointwise("head/channel_classifier", inner, classes)
    if options["position_attention"] or options["channel_attention"]:
        yield from pointwise("head/fusion_classifier", inner, classes)
    else:
        yield from conv_bn("head/fcn_in", features, inner)
        yield from pointwise("head/fusion_classifier", inner, classes, named="head/fcn_classifier")
    if options["auxiliary"]:
        yield from conv_bn("auxiliary/in", features // 2, features // 8)
        yield from pointwise("auxiliary/classifier", features // 8, classes)
