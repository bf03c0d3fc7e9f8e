"""The dilated ResNet that is the backbone of the paper's network (section 3.1)."""

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
    masked,
    maybe_remat,
    valid_mask,
)
from danet_jax.ops.batch_norm import relu
from danet_jax.ops.checks import check_choice, check_flag, check_images, check_whole, option_error
from danet_jax.ops.convolution.phases import regroup
from danet_jax.ops.sharding import keep_sharded, platform_of, rows_are_sharded

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
"""The number of residual blocks in each of layer1 to layer4."""

STEMS = {"v1": (64,), "v1c": (32, 32, 64), "v1s": (64, 64, 128)}
"""Channels of the stem's convolutions: one 7x7 (torchvision, the authors) or three 3x3 (mmsegmentation, Encoding)."""

OUTPUT_STRIDES = (8, 16, 32)

LARGEST_GRID = 4
"""The maximum number of phases along an axis. With more, each phase would have too few positions."""


def is_bottleneck(backbone: str) -> bool:
    """Returns whether the blocks are bottlenecks (ResNet-50 and -101) rather than basic blocks (ResNet-18 and -34)."""
    return backbone in ("resnet50", "resnet101")


class Features(NamedTuple):
    """The features that the heads use.

    Attributes:
      layer3: features for the auxiliary head, `[B, h, w, C]`.
      layer4: features for the attention modules, `[B, h, w, C]`.
      sizes3, sizes4: int32 `[B, 2]`, heights and widths of the images within the features; None without padding.
    """

    layer3: jax.Array
    layer4: jax.Array
    sizes3: jax.Array | None
    sizes4: jax.Array | None


class Block(nn.Module):
    """The base class of the two kinds of residual blocks.

    Attributes:
      features: number of channels inside the block.
      stride, dilation: stride and dilation of the first 3x3 convolution.
      second_dilation: dilation of the second 3x3 convolution of a basic block; a bottleneck has no second one.
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
    """Two 3x3 convolutions and a shortcut. The first has `dilation`, the second `second_dilation`."""

    @nn.compact
    def __call__(
        self, x: jax.Array, mask_in: jax.Array | None, mask_out: jax.Array | None, *, train: bool
    ) -> jax.Array:
        def norm(x: jax.Array, name: str, *, relu: bool = False) -> jax.Array:
            return BatchNorm(self.computation, name=name)(x, train=train, mask=mask_out, relu=relu)

        conv = functools.partial(Convolution, self.features, computation=self.computation)
        y = conv(3, self.stride, self.dilation, name="conv1")(masked(x, mask_in))
        y = norm(y, "bn1", relu=True)
        y = norm(conv(3, 1, self.second_dilation, name="conv2")(masked(y, mask_out)), "bn2")
        if self.project:
            x = norm(conv(1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return relu(x + y)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions and a shortcut.

    The 3x3 has the stride and the dilation; the second 1x1 has four times the features.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, mask_in: jax.Array | None, mask_out: jax.Array | None, *, train: bool
    ) -> jax.Array:
        def norm(x: jax.Array, name: str, *, relu: bool = False, mask: Any = mask_out) -> jax.Array:
            return BatchNorm(self.computation, name=name)(x, train=train, mask=mask, relu=relu)

        conv = functools.partial(Convolution, computation=self.computation)
        y = norm(conv(self.features, name="conv1")(x), "bn1", relu=True, mask=mask_in)
        y = conv(self.features, 3, self.stride, self.dilation, name="conv2")(masked(y, mask_in))
        y = norm(y, "bn2", relu=True)
        y = norm(conv(4 * self.features, name="conv3")(y), "bn3")
        if self.project:
            x = norm(conv(4 * self.features, 1, self.stride, name="downsample_conv")(x), "downsample_bn")
        return relu(x + y)


class Stem(nn.Module):
    """The convolutions of a stem and 3x3 max pooling with stride 2, which reduce the image to a quarter of its size."""

    kind: str
    computation: Computation

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None, *, train: bool) -> jax.Array:
        widths = STEMS[self.kind]
        mask: jax.Array | None = None
        for index, features in enumerate(widths, start=1):
            convolution = Convolution(
                features,
                kernel_size=7 if len(widths) == 1 else 3,
                stride=2 if index == 1 else 1,
                computation=self.computation,
                name=f"conv{index}",
            )
            # The padding of the image itself is already zero.
            x = convolution(x if index == 1 else masked(x, mask))
            mask = valid_mask(x, sizes)
            x = BatchNorm(self.computation, name=f"bn{index}")(x, train=train, relu=True)
        # After a ReLU, padding with zeros gives the same maxima as padding with minus infinity.
        return nn.max_pool(masked(x, mask), (3, 3), (2, 2), ((1, 1), (1, 1)))


def check_backbone_options(model: Any) -> None:
    """Raises InputError unless the options of a `ResNet`, or of a `DANet` with a named backbone, are valid."""
    check_choice("backbone", model.backbone, BLOCKS)
    check_choice("stem", model.stem, STEMS)
    check_choice("output_stride", model.output_stride, OUTPUT_STRIDES)
    check_choice("remat", model.remat, REMAT)
    check_flag("second_dilation", model.second_dilation)
    if model.phases is not None:
        check_flag("phases", model.phases)
    if model.multi_grid is not None:
        blocks = BLOCKS[model.backbone][-1]
        # Published networks with two blocks in layer4 also list the paper's three dilations, and use the first two.
        if not isinstance(model.multi_grid, tuple | list) or not blocks <= len(model.multi_grid) <= max(
            blocks, 3
        ):
            requirement = f"None or {blocks} dilations, one for each block of {model.backbone}'s layer4"
            raise option_error("multi_grid", model.multi_grid, requirement)
        for dilation in model.multi_grid:
            check_whole("multi_grid", dilation)


class ResNet(nn.Module):
    """ResNet whose last layers are dilated instead of strided, so that the features have stride `output_stride`.

    Attributes:
      backbone: a key of `BLOCKS`.
      stem: a key of `STEMS`.
      output_stride: 8 (layer3 is dilated by 2 and layer4 by 4), 16 (layer4 is dilated by 2) or 32 (no dilation). The
        first block of a dilated layer has half the layer's dilation, as in the authors' code and mmsegmentation.
      multi_grid: dilation of each block of layer4: (4, 8, 16) in the paper, of which networks with two blocks use the
        first two. None disables multi-grid.
      dtype: dtype of the computation; see `DANet`.
      phases: whether consecutive dilated blocks are computed on the phases of their dilation; see
        `danet_jax.ops.convolution.phases`. The features are the same except for rounding. None for True on TPUs and
        False elsewhere. It is ignored if image rows are sharded, because XLA has computed wrong gradients then.
      remat: what training recomputes to save memory; one of `danet_jax.models.layers.REMAT`.
      second_dilation: whether the second convolution of a basic block has the dilation of its layer, as in the authors'
        code (PyTorch-Encoding). In mmsegmentation it is not dilated. Bottlenecks are not affected.
      param_dtype, precision, kernel_init: as in `flax.linen.Conv`. The default is He initialisation with fan-out.

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
        """Computes the features of a batch of images.

        Args:
          x: normalised images, float `[B, H, W, 3]`.
          train: whether to use batch statistics.
          sizes: int32 `[B, 2]`, the heights and widths of images that were padded with zeros at the right and the
            bottom. The features inside an image are then exactly those of the image without padding.

        Returns:
          The features of layer3 and layer4.
        """
        check_images(x)
        phases = platform_of(x) == "tpu" if self.phases is None else self.phases
        phases = phases and not rows_are_sharded(x) and all(isinstance(n, int) for n in x.shape)
        computation = Computation.of(self)
        sizes = _halve(sizes)
        x = x if self.dtype is None else x.astype(self.dtype)
        stem = Stem(self.stem, computation, name="stem")
        x = keep_sharded(maybe_remat(stem, "stem", self.remat, x)(x, sizes, train=train))
        sizes = _halve(sizes)
        bottleneck = is_bottleneck(self.backbone)
        kind = Bottleneck if bottleneck else BasicBlock
        outputs, output_sizes = [], []
        grid, shape, mask = 1, x.shape[1:3], valid_mask(x, sizes)
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
                    grid, mask = new_grid, _phase_mask(x.shape[0] // new_grid**2, shape, sizes, new_grid)
                mask_in = mask
                if first_stride == 2:
                    sizes, shape = _halve(sizes), ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
                    mask = _phase_mask(x.shape[0], shape, sizes, 1)
                block = kind(
                    features=64 * 2 ** (layer - 1),
                    stride=first_stride,
                    dilation=dilation // grid,
                    second_dilation=second_dilation // grid,
                    # The shortcut of a basic block in layer1 is the identity, unless the stem has 128 channels.
                    project=index == 0 and (layer > 1 or bottleneck or STEMS[self.stem][-1] != 64),
                    computation=computation,
                    name=f"layer{layer}_{index}",
                )
                x = keep_sharded(maybe_remat(block, "block", self.remat, x)(x, mask_in, mask, train=train))
            outputs.append(regroup(x, grid, 1, shape) if layer > 2 else x)
            output_sizes.append(sizes)
        return Features(*outputs[2:], *output_sizes[2:])

    def _plan(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Returns, for each layer, the stride of its first block, its dilation, and the dilation of each block."""
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


def _phase_mask(batch: int, shape: tuple[int, ...], sizes: jax.Array | None, grid: int) -> jax.Array | None:
    """Returns a mask of the positions inside the images, divided into `grid` x `grid` phases, or None if all are.

    Args:
      batch: the number of images.
      shape: H and W of the features before they are divided.
      sizes: int32 `[B, 2]`, heights and widths of the images within the features; None without padding.
      grid: the number of phases along each axis.
    """
    mask_shape = (batch, *shape, 1)
    if sizes is None and (grid == 1 or all(extent % grid == 0 for extent in shape)):
        return None
    mask = valid_mask(jax.ShapeDtypeStruct(mask_shape, bool), sizes)
    return regroup(jnp.ones(mask_shape, bool) if mask is None else mask, 1, grid, shape)


def _halve(sizes: jax.Array | None) -> jax.Array | None:
    """Returns the sizes after a convolution or pooling with stride 2 and torch's padding."""
    return None if sizes is None else (sizes + 1) // 2
