"""The dilated ResNet that the paper calls its backbone (section 3.1)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models import layers
from danet_jax.models.layers import batch_norm, masked

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
"""Residual blocks in layer1 to layer4."""

STEMS = {"v1": (64,), "v1c": (32, 32, 64), "v1s": (64, 64, 128)}
"""Channels of the stem's convolutions: one 7x7 (torchvision, the authors), or three 3x3 (mmsegmentation, Encoding)."""

OUTPUT_STRIDES = (8, 16, 32)

Convolution = functools.partial(layers.Convolution, kernel_init=layers.he_normal_over_outputs)


def is_bottleneck(backbone: str) -> bool:
    """Whether the blocks are 1x1, 3x3, 1x1 bottlenecks (ResNet-50 and deeper) or two 3x3 (ResNet-18, -34)."""
    return backbone in ("resnet50", "resnet101")


class Features(NamedTuple):
    """What the heads read: `layer3` (the auxiliary head) and `layer4`, `[B, H', W', C]`, and the true sizes of each."""

    layer3: jax.Array
    layer4: jax.Array
    sizes3: jax.Array | None
    sizes4: jax.Array | None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity; in a dilated layer the second has the layer's own dilation."""

    features: int
    stride: int
    dilation: int
    layer_dilation: int
    project: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, sizes_in: jax.Array | None, sizes_out: jax.Array | None, *, train: bool
    ) -> jax.Array:
        norm = functools.partial(batch_norm, train=train, dtype=self.dtype)
        conv = functools.partial(Convolution, self.features, dtype=self.dtype)
        y = conv(3, self.stride, self.dilation, name="conv1")(masked(x, sizes_in))
        y = nn.relu(norm(y, "bn1"))
        y = norm(conv(3, 1, self.layer_dilation, name="conv2")(masked(y, sizes_out)), "bn2")
        if self.project:
            x = norm(conv(1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride and the dilation, 1x1 to four times the features, and the identity."""

    features: int
    stride: int
    dilation: int
    layer_dilation: int  # serves BasicBlock; a bottleneck has one 3x3
    project: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, sizes_in: jax.Array | None, sizes_out: jax.Array | None, *, train: bool
    ) -> jax.Array:
        norm = functools.partial(batch_norm, train=train, dtype=self.dtype)
        conv = functools.partial(Convolution, dtype=self.dtype)
        y = nn.relu(norm(conv(self.features, name="conv1")(x), "bn1"))
        y = conv(self.features, 3, self.stride, self.dilation, name="conv2")(masked(y, sizes_in))
        y = nn.relu(norm(y, "bn2"))
        y = norm(conv(4 * self.features, name="conv3")(y), "bn3")
        if self.project:
            x = norm(conv(4 * self.features, 1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return nn.relu(x + y)


class Stem(nn.Module):
    """From the image to a quarter of its size: see `STEMS`; then 3x3/2 max-pooling."""

    kind: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None, *, train: bool) -> jax.Array:
        widths = STEMS[self.kind]
        for index, features in enumerate(widths, start=1):
            conv = Convolution(
                features,
                kernel_size=7 if len(widths) == 1 else 3,
                stride=2 if index == 1 else 1,
                dtype=self.dtype,
                name=f"conv{index}",
            )
            # The image itself is padded with zeros already.
            x = conv(x if index == 1 else masked(x, sizes))
            x = nn.relu(batch_norm(x, f"bn{index}", train=train, dtype=self.dtype))
        # After a ReLU, padding with 0 and with minus infinity are the same to a maximum.
        return nn.max_pool(masked(x, sizes), (3, 3), (2, 2), ((1, 1), (1, 1)))


class ResNet(nn.Module):
    """ResNet whose last layers are dilated instead of strided, so that features stay at 1/`output_stride`.

    Attributes:
      backbone: a key of `BLOCKS`.
      stem: a key of `STEMS`.
      output_stride: 8 (layer3 dilated by 2, layer4 by 4), 16 (layer4 by 2) or 32 (nothing dilated). The
        first block of a dilated layer has half the layer's dilation, as the authors' and mmsegmentation's.
      multi_grid: dilations of layer4's blocks, in full: (4, 8, 16) in the paper. None: none.
      dtype: of the computation; parameters are float32.
    """

    backbone: str = "resnet50"
    stem: str = "v1"
    output_stride: int = 8
    multi_grid: tuple[int, ...] | None = None
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        _one_of("backbone", self.backbone, BLOCKS)
        _one_of("stem", self.stem, STEMS)
        _one_of("output_stride", self.output_stride, OUTPUT_STRIDES)
        blocks = BLOCKS[self.backbone][-1]
        if self.multi_grid is not None and len(self.multi_grid) < blocks:
            raise InputError(
                f"multi_grid={tuple(self.multi_grid)} is too short: layer4 of {self.backbone} has {blocks} blocks"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, sizes: jax.Array | None = None) -> Features:
        """`[B, H, W, 3]` normalised images -> `Features`.

        With `sizes` (int32 `[B, 2]`, the true heights and widths of images zero-padded at the right and the
        bottom) the features inside an image are exactly those of the image without padding.
        """
        sizes = _halved(sizes)
        x = Stem(self.stem, self.dtype, name="stem")(x.astype(self.dtype), sizes, train=train)
        sizes = _halved(sizes)
        bottleneck = is_bottleneck(self.backbone)
        block = Bottleneck if bottleneck else BasicBlock
        outputs, output_sizes = [], []
        stride, dilation = 4, 1
        for layer, blocks in enumerate(BLOCKS[self.backbone], start=1):
            first_stride, first_dilation = 1, dilation
            if layer > 1 and stride < self.output_stride:
                first_stride, stride = 2, 2 * stride
            elif layer > 1:
                dilation *= 2
            for index in range(blocks):
                sizes_in = sizes
                if index == 0 and first_stride == 2:
                    sizes = _halved(sizes)
                block_dilation = first_dilation if index == 0 else dilation
                if layer == 4 and self.multi_grid is not None:
                    block_dilation = self.multi_grid[index]
                x = block(
                    features=64 * 2 ** (layer - 1),
                    stride=first_stride if index == 0 else 1,
                    dilation=block_dilation,
                    layer_dilation=dilation,
                    # Basic blocks keep a 64-channel stem's features as they are; Encoding's has 128.
                    project=index == 0 and (layer > 1 or bottleneck or STEMS[self.stem][-1] != 64),
                    dtype=self.dtype,
                    name=f"layer{layer}_{index}",
                )(x, sizes_in, sizes, train=train)
            outputs.append(x)
            output_sizes.append(sizes)
        return Features(*outputs[2:], *output_sizes[2:])


def _halved(sizes: jax.Array | None) -> jax.Array | None:
    """The sizes of what a convolution or a pooling with stride 2 and torch's padding gives."""
    return None if sizes is None else (sizes + 1) // 2


def _one_of(name: str, value: Any, existing: Any) -> None:
    if value not in existing:
        raise InputError(f"{name}={value!r} does not exist; there are: {', '.join(map(str, existing))}")
