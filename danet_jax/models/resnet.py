"""The dilated ResNet that the paper calls its backbone (section 3.1)."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.models.layers import (
    REMAT,
    BatchNorm,
    Computation,
    Convolution,
    he_normal_over_outputs,
    inside,
    masked,
    maybe_remat,
)
from danet_jax.ops.batch_norm import relu
from danet_jax.ops.checks import check_choice, check_flag, check_images, check_whole, option_error
from danet_jax.ops.convolution.phases import regroup
from danet_jax.ops.sharding import keep_divided, platform_of, rows_are_divided

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
"""The numbers of residual blocks in layer1 to layer4."""

STEMS = {"v1": (64,), "v1c": (32, 32, 64), "v1s": (64, 64, 128)}
"""Channels of the stem's convolutions: one 7x7 (torchvision, the authors), or three 3x3 (mmsegmentation, Encoding)."""

OUTPUT_STRIDES = (8, 16, 32)

LARGEST_GRID = 4
"""The most phases along an axis: each of 16 x 16 phases would have few places."""


def is_bottleneck(backbone: str) -> bool:
    """Returns whether the blocks are 1x1, 3x3, 1x1 bottlenecks (ResNet-50 and -101) or two 3x3 (ResNet-18 and -34)."""
    return backbone in ("resnet50", "resnet101")


class Features(NamedTuple):
    """The heads read `layer3` (the auxiliary head) and `layer4`, `[B, h, w, C]`, and the sizes of images in them."""

    layer3: jax.Array
    layer4: jax.Array
    sizes3: jax.Array | None
    sizes4: jax.Array | None


class Block(nn.Module):
    """What the two kinds of residual blocks have in common.

    Attributes:
      features: channels inside the block.
      stride, dilation: stride and dilation of its first 3x3 convolution.
      second_dilation: dilation of a basic block's second 3x3 convolution; a bottleneck has one.
      project: whether the shortcut has a 1x1 convolution.
      computation: see `danet_jax.models.layers.Computation`.
    """

    features: int
    stride: int
    dilation: int
    second_dilation: int
    project: bool
    computation: Computation


class BasicBlock(Block):
    """Two 3x3 convolutions and the identity; the first has the block's dilation, the second `second_dilation`."""

    @nn.compact
    def __call__(
        self, x: jax.Array, places_in: jax.Array | None, places_out: jax.Array | None, *, train: bool
    ) -> jax.Array:
        def norm(x: jax.Array, name: str, *, relu: bool = False) -> jax.Array:
            return BatchNorm(self.computation, name=name)(x, train=train, places=places_out, relu=relu)

        conv = functools.partial(Convolution, self.features, computation=self.computation)
        y = conv(3, self.stride, self.dilation, name="conv1")(masked(x, places_in))
        y = norm(y, "bn1", relu=True)
        y = norm(conv(3, 1, self.second_dilation, name="conv2")(masked(y, places_out)), "bn2")
        if self.project:
            x = norm(conv(1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return relu(x + y)


class Bottleneck(Block):
    """A 1x1, a 3x3 with the stride and the dilation, a 1x1 to four times the features, and the identity."""

    @nn.compact
    def __call__(
        self, x: jax.Array, places_in: jax.Array | None, places_out: jax.Array | None, *, train: bool
    ) -> jax.Array:
        def norm(x: jax.Array, name: str, *, relu: bool = False, places: Any = places_out) -> jax.Array:
            return BatchNorm(self.computation, name=name)(x, train=train, places=places, relu=relu)

        conv = functools.partial(Convolution, computation=self.computation)
        y = norm(conv(self.features, name="conv1")(x), "bn1", relu=True, places=places_in)
        y = conv(self.features, 3, self.stride, self.dilation, name="conv2")(masked(y, places_in))
        y = norm(y, "bn2", relu=True)
        y = norm(conv(4 * self.features, name="conv3")(y), "bn3")
        if self.project:
            x = norm(conv(4 * self.features, 1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return relu(x + y)


class Stem(nn.Module):
    """The convolutions of `STEMS`, then 3x3/2 max-pooling, from the image to a quarter of its size."""

    kind: str
    computation: Computation

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None, *, train: bool) -> jax.Array:
        widths = STEMS[self.kind]
        places: jax.Array | None = None
        for index, features in enumerate(widths, start=1):
            convolution = Convolution(
                features,
                kernel_size=7 if len(widths) == 1 else 3,
                stride=2 if index == 1 else 1,
                computation=self.computation,
                name=f"conv{index}",
            )
            # The image itself is padded with zeros already.
            x = convolution(x if index == 1 else masked(x, places))
            places = None if sizes is None else inside(x, sizes)
            x = BatchNorm(self.computation, name=f"bn{index}")(x, train=train, relu=True)
        # After a ReLU, padding with 0 and with minus infinity give the same maximum.
        return nn.max_pool(masked(x, places), (3, 3), (2, 2), ((1, 1), (1, 1)))


def check_backbone_options(model: Any) -> None:
    """Raises InputError unless the options of a `ResNet`, or of a `DANet` with a named backbone, exist."""
    check_choice("backbone", model.backbone, BLOCKS)
    check_choice("stem", model.stem, STEMS)
    check_choice("output_stride", model.output_stride, OUTPUT_STRIDES)
    check_choice("remat", model.remat, REMAT)
    check_flag("second_dilation", model.second_dilation)
    if model.phases is not None:
        check_flag("phases", model.phases)
    if model.multi_grid is not None:
        blocks = BLOCKS[model.backbone][-1]
        # Published networks with two blocks have the paper's three dilations too, and use the first two.
        if not isinstance(model.multi_grid, tuple | list) or not blocks <= len(model.multi_grid) <= max(
            blocks, 3
        ):
            requirement = f"None or {blocks} dilations, one for each block of {model.backbone}'s layer4"
            raise option_error("multi_grid", model.multi_grid, requirement)
        for dilation in model.multi_grid:
            check_whole("multi_grid", dilation)


class ResNet(nn.Module):
    """ResNet whose last layers are dilated instead of strided, so that its features are at 1/`output_stride`.

    Attributes:
      backbone: a key of `BLOCKS`.
      stem: a key of `STEMS`.
      output_stride: 8 (layer3 dilated by 2, layer4 by 4), 16 (layer4 by 2) or 32 (nothing dilated). The
        first block of a dilated layer has half the layer's dilation, as in the authors' code and mmsegmentation.
      multi_grid: dilations of layer4's blocks, one each: (4, 8, 16) in the paper, of which networks with two blocks
        use the first two. None for none.
      dtype: dtype of the computation, see `DANet`.
      phases: whether runs of dilated blocks are computed on the phases of their dilation, see
        `danet_jax.ops.convolution.phases`, with the same features but for rounding. None for True on TPUs. It is
        ignored where rows are divided over devices: XLA has been seen to compute wrong gradients there.
      remat: one of `danet_jax.models.layers.REMAT`: less memory in training for more computation.
      second_dilation: whether the second convolution of a basic block has its layer's dilation, as in the authors' code
        (PyTorch-Encoding); in mmsegmentation it has none. Bottlenecks have one 3x3.
      param_dtype, precision, kernel_init: as in `flax.linen.Conv`; the default initialisation is He's over the outputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from danet_jax import ResNet
      >>> images = jnp.zeros((1, 64, 96, 3))
      >>> features = jax.eval_shape(ResNet("resnet50").init_with_output, jax.random.key(0), images)[0]
      >>> features.layer3.shape, features.layer4.shape
      ((1, 8, 12, 1024), (1, 8, 12, 2048))
    """

    backbone: str = "resnet50"
    stem: str = "v1"
    output_stride: int = 8
    multi_grid: tuple[int, ...] | None = None
    dtype: Any = jnp.float32
    phases: bool | None = None
    remat: str = "auto"
    second_dilation: bool = True
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = he_normal_over_outputs

    def __post_init__(self) -> None:
        check_backbone_options(self)
        Computation.of(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, sizes: jax.Array | None = None) -> Features:
        """Computes `Features` of normalised images `[B, H, W, 3]`.

        With `sizes` (int32 `[B, 2]`, the heights and widths of images that were padded with zeros at the right and the
        bottom) the features inside an image are exactly those of the image without padding.
        """
        check_images(x)
        phases = platform_of(x) == "tpu" if self.phases is None else self.phases
        phases = phases and not rows_are_divided(x) and all(isinstance(n, int) for n in x.shape)
        computation = Computation.of(self)
        sizes = _halved(sizes)
        x = x if self.dtype is None else x.astype(self.dtype)
        stem = Stem(self.stem, computation, name="stem")
        x = keep_divided(maybe_remat(stem, "stem", self.remat, x)(x, sizes, train=train))
        sizes = _halved(sizes)
        bottleneck = is_bottleneck(self.backbone)
        kind = Bottleneck if bottleneck else BasicBlock
        outputs, output_sizes = [], []
        grid, shape, places = 1, x.shape[1:3], _places(x.shape, sizes, 1)
        for layer, (stride, layer_dilation, dilations) in enumerate(self._plan(), start=1):
            second_dilation = layer_dilation if self.second_dilation else 1
            for index, dilation in enumerate(dilations):
                first_stride = stride if index == 0 else 1
                new_grid = 1
                if phases and first_stride == 1:
                    new_grid = dilation if bottleneck else math.gcd(dilation, second_dilation)
                    new_grid = math.gcd(new_grid, LARGEST_GRID)
                if new_grid != grid:
                    x = regroup(x, grid, new_grid, shape)
                    grid, places = new_grid, _places((x.shape[0] // new_grid**2, *shape), sizes, new_grid)
                places_in = places
                if first_stride == 2:
                    sizes, shape = _halved(sizes), ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
                    places = _places((x.shape[0], *shape), sizes, 1)
                block = kind(
                    features=64 * 2 ** (layer - 1),
                    stride=first_stride,
                    dilation=dilation // grid,
                    second_dilation=second_dilation // grid,
                    # Basic blocks keep a 64-channel stem's features as they are; Encoding's stem has 128.
                    project=index == 0 and (layer > 1 or bottleneck or STEMS[self.stem][-1] != 64),
                    computation=computation,
                    name=f"layer{layer}_{index}",
                )
                x = keep_divided(
                    maybe_remat(block, "block", self.remat, x)(x, places_in, places, train=train)
                )
            outputs.append(regroup(x, grid, 1, shape) if layer > 2 else x)
            output_sizes.append(sizes)
        return Features(*outputs[2:], *output_sizes[2:])

    def _plan(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Returns the stride of each layer's first block, the layer's dilation, and the dilation of each block."""
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
    """Returns which places of features of `shape` (B, H, W, ...) exist, in `grid` x `grid` phases; None if all do."""
    batch, height, width = shape[:3]
    if sizes is None:
        if grid == 1 or (height % grid == 0 and width % grid == 0):
            return None
        whole = jnp.ones((batch, height, width, 1), bool)
    else:
        whole = inside(jax.ShapeDtypeStruct((batch, height, width, 1), bool), sizes)
    return regroup(whole, 1, grid, (height, width))


def _halved(sizes: jax.Array | None) -> jax.Array | None:
    """Returns the sizes after a convolution or a pooling with stride 2 and torch's padding."""
    return None if sizes is None else (sizes + 1) // 2
