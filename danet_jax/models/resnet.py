"""The dilated ResNet that the paper calls its backbone (section 3.1)."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models import layers
from danet_jax.models.layers import REMAT, BatchNorm, anew, inside, masked
from danet_jax.ops.checks import check_dtype, check_flag, check_images, check_name, check_whole
from danet_jax.ops.convolution.phases import regroup
from danet_jax.ops.platform import platform_of
from danet_jax.ops.relu import relu
from danet_jax.ops.sharding import keep_divided, rows_are_divided

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

PHASES = ("tpu",)
"""Platforms on which runs of dilated blocks are computed in phases."""

LARGEST_GRID = 4
"""Phases along an axis, at most: of 16 x 16 phases few places would be left in each."""

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
    """Two 3x3 convolutions and the identity; the first has the block's dilation, the second `second_dilation`."""

    features: int
    stride: int
    dilation: int
    second_dilation: int
    project: bool
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, places_in: jax.Array | None, places_out: jax.Array | None) -> jax.Array:
        def norm(x: jax.Array, name: str, *, relu: bool = False) -> jax.Array:
            return BatchNorm(self.dtype, name=name)(x, train=self.train, places=places_out, relu=relu)

        conv = functools.partial(Convolution, self.features, dtype=self.dtype)
        y = conv(3, self.stride, self.dilation, name="conv1")(masked(x, places_in))
        y = norm(y, "bn1", relu=True)
        y = norm(conv(3, 1, self.second_dilation, name="conv2")(masked(y, places_out)), "bn2")
        if self.project:
            x = norm(conv(1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride and the dilation, 1x1 to four times the features, and the identity."""

    features: int
    stride: int
    dilation: int
    second_dilation: int  # serves BasicBlock; a bottleneck has one 3x3
    project: bool
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, places_in: jax.Array | None, places_out: jax.Array | None) -> jax.Array:
        def norm(x: jax.Array, name: str, *, relu: bool = False, places: Any = places_out) -> jax.Array:
            return BatchNorm(self.dtype, name=name)(x, train=self.train, places=places, relu=relu)

        conv = functools.partial(Convolution, dtype=self.dtype)
        y = norm(conv(self.features, name="conv1")(x), "bn1", relu=True, places=places_in)
        y = conv(self.features, 3, self.stride, self.dilation, name="conv2")(masked(y, places_in))
        y = norm(y, "bn2", relu=True)
        y = norm(conv(4 * self.features, name="conv3")(y), "bn3")
        if self.project:
            x = norm(conv(4 * self.features, 1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return relu(x + y)


class Stem(nn.Module):
    """From the image to a quarter of its size: see `STEMS`; then 3x3/2 max-pooling."""

    kind: str
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None) -> jax.Array:
        widths = STEMS[self.kind]
        places: jax.Array | None = None
        for index, features in enumerate(widths, start=1):
            conv = Convolution(
                features,
                kernel_size=7 if len(widths) == 1 else 3,
                stride=2 if index == 1 else 1,
                dtype=self.dtype,
                name=f"conv{index}",
            )
            # The image itself is padded with zeros already.
            x = conv(x if index == 1 else masked(x, places))
            places = None if sizes is None else inside(x, sizes)
            x = BatchNorm(self.dtype, name=f"bn{index}")(x, train=self.train, relu=True)
        # After a ReLU, padding with 0 and with minus infinity are the same to a maximum.
        return nn.max_pool(masked(x, places), (3, 3), (2, 2), ((1, 1), (1, 1)))


class ResNet(nn.Module):
    """ResNet whose last layers are dilated instead of strided, so that features stay at 1/`output_stride`.

    Attributes:
      backbone: a key of `BLOCKS`.
      stem: a key of `STEMS`.
      output_stride: 8 (layer3 dilated by 2, layer4 by 4), 16 (layer4 by 2) or 32 (nothing dilated). The
        first block of a dilated layer has half the layer's dilation, as the authors' and mmsegmentation's.
      multi_grid: dilations of layer4's blocks, in full: (4, 8, 16) in the paper. None: none.
      dtype: of the computation; parameters are float32.
      phases: whether runs of dilated blocks are computed on the phases of their dilation, see
        `danet_jax.ops.convolution.phases`: the same features but for rounding. None: on the platforms of `PHASES`.
        Never where rows are divided over devices: XLA has been seen to get gradients wrong there.
      remat: one of `danet_jax.models.layers.REMAT`: less memory in training for more computation.
      second_dilation: whether the second convolution of a basic block has its layer's dilation, as the authors'
        (PyTorch-Encoding's); in mmsegmentation it has none. Bottlenecks have one 3x3.
    """

    backbone: str = "resnet50"
    stem: str = "v1"
    output_stride: int = 8
    multi_grid: tuple[int, ...] | None = None
    dtype: Any = jnp.float32
    phases: bool | None = None
    remat: str = "auto"
    second_dilation: bool = True

    def __post_init__(self) -> None:
        check_name("backbone", self.backbone, BLOCKS)
        check_name("stem", self.stem, STEMS)
        check_whole("output_stride", self.output_stride)
        if self.output_stride not in OUTPUT_STRIDES:
            existing = ", ".join(map(str, OUTPUT_STRIDES))
            raise InputError(f"output_stride={self.output_stride} does not exist; there are: {existing}")
        check_flag("second_dilation", self.second_dilation)
        check_dtype(self.dtype)
        check_name("remat", self.remat, REMAT)
        if self.phases is not None:
            check_flag("phases", self.phases)
        if self.multi_grid is not None:
            if not isinstance(self.multi_grid, tuple | list):
                raise InputError(
                    f"multi_grid={self.multi_grid!r} must be None or the dilations of layer4's blocks"
                )
            for dilation in self.multi_grid:
                check_whole("multi_grid's dilation", dilation)
            blocks = BLOCKS[self.backbone][-1]
            if len(self.multi_grid) < blocks:
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
        check_images(x)
        phases = self.phases
        if phases is None:
            phases = platform_of(x) in PHASES
        phases = phases and not rows_are_divided(x) and all(isinstance(n, int) for n in x.shape)
        sizes = _halved(sizes)
        stem = anew(Stem, "stem", self.remat, x)
        x = stem(self.stem, train, self.dtype, name="stem")(x.astype(self.dtype), sizes)
        x = keep_divided(x)
        sizes = _halved(sizes)
        bottleneck = is_bottleneck(self.backbone)
        block = anew(Bottleneck if bottleneck else BasicBlock, "block", self.remat, x)
        outputs, output_sizes = [], []
        grid, shape, places = 1, x.shape[1:3], _places(x.shape, sizes, 1)
        for layer, (stride, layer_dilation, dilations) in enumerate(self._plan(), start=1):
            second_dilation = layer_dilation if self.second_dilation else 1
            for index, dilation in enumerate(dilations):
                first_stride = stride if index == 0 else 1
                wanted = 1
                if phases and first_stride == 1:
                    wanted = dilation if bottleneck else math.gcd(dilation, second_dilation)
                    wanted = math.gcd(wanted, LARGEST_GRID)
                if wanted != grid:
                    x = regroup(x, grid, wanted, shape)
                    grid, places = wanted, _places((x.shape[0] // wanted**2, *shape), sizes, wanted)
                places_in = places
                if first_stride == 2:
                    sizes, shape = _halved(sizes), _halved_shape(shape)
                    places = _places((x.shape[0], *shape), sizes, 1)
                x = block(
                    features=64 * 2 ** (layer - 1),
                    stride=first_stride,
                    dilation=dilation // grid,
                    second_dilation=second_dilation // grid,
                    # Basic blocks keep a 64-channel stem's features as they are; Encoding's has 128.
                    project=index == 0 and (layer > 1 or bottleneck or STEMS[self.stem][-1] != 64),
                    train=train,
                    dtype=self.dtype,
                    name=f"layer{layer}_{index}",
                )(x, places_in, places)
                x = keep_divided(x)
            outputs.append(regroup(x, grid, 1, shape) if layer > 2 else x)
            output_sizes.append(sizes)
        return Features(*outputs[2:], *output_sizes[2:])

    def _plan(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Of every layer: the stride of its first block, its dilation, and that of each block."""
        plan, total_stride, dilation = [], 4, 1
        for layer, blocks in enumerate(BLOCKS[self.backbone], start=1):
            stride, first_dilation = 1, dilation
            if layer > 1 and total_stride < self.output_stride:
                stride, total_stride = 2, 2 * total_stride
            elif layer > 1:
                dilation *= 2
            dilations = (first_dilation, *(dilation,) * (blocks - 1))
            if layer == 4 and self.multi_grid is not None:
                dilations = tuple(self.multi_grid[:blocks])
            plan.append((stride, dilation, dilations))
        return plan


def _places(shape: tuple[int, ...], sizes: jax.Array | None, grid: int) -> jax.Array | None:
    """Which places of features `shape` (B, H, W, ...) in `grid` x `grid` phases exist; None: all of them do."""
    batch, height, width = shape[:3]
    if sizes is None:
        if grid == 1 or (height % grid == 0 and width % grid == 0):
            return None
        whole = jnp.ones((batch, height, width, 1), bool)
    else:
        whole = inside(jax.ShapeDtypeStruct((batch, height, width, 1), bool), sizes)
    return regroup(whole, 1, grid, (height, width))


def _halved_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((extent + 1) // 2 for extent in shape)


def _halved(sizes: jax.Array | None) -> jax.Array | None:
    """The sizes of what a convolution or a pooling with stride 2 and torch's padding gives."""
    return None if sizes is None else (sizes + 1) // 2
