"""DANet: the two attention modules on a dilated ResNet (section 3.4, figure 2)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models.attention import ChannelAttention, PositionAttention
from danet_jax.models.layers import ConvBNReLU, Convolution, anew, inside, masked
from danet_jax.models.resnet import Features, ResNet
from danet_jax.ops.attention import BACKENDS
from danet_jax.ops.channel_attention import ENERGIES
from danet_jax.ops.checks import (
    check_array,
    check_flag,
    check_images,
    check_name,
    check_shapes_fit,
    check_whole,
)
from danet_jax.ops.resize import resize_bilinear
from danet_jax.ops.sharding import keep_divided


class Logits(NamedTuple):
    """Class scores before the softmax, float32 `[B, H, W, num_classes]`; None where a branch is off.

    `fusion` is the result. The others serve the loss, and show what each attention sees by itself.
    """

    fusion: jax.Array
    position: jax.Array | None = None
    channel: jax.Array | None = None
    auxiliary: jax.Array | None = None


def classify(
    x: jax.Array, num_classes: int, dropout_rate: float, name: str, *, train: bool, dtype: Any
) -> jax.Array:
    """Dropout of whole channels, then a 1x1 convolution with bias to float32 logits, in the calling module's scope."""
    x = nn.Dropout(dropout_rate, broadcast_dims=(1, 2), deterministic=not train)(x)
    logits = Convolution(num_classes, use_bias=True, dtype=dtype, name=name)(keep_divided(x))
    return keep_divided(logits.astype(jnp.float32))


class Head(nn.Module):
    """Two attention branches, their sum, and a classifier on each of the three (figure 2)."""

    num_classes: int
    position_attention: bool
    channel_attention: bool
    channel_energy: str
    dropout_rate: float
    attention_backend: str
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None, *, train: bool) -> Logits:
        features = x.shape[-1] // 4
        mask = None if sizes is None else inside(x, sizes)
        x = masked(x, mask)

        conv = anew(ConvBNReLU, "convolution", self.remat, x)

        def branch(name: str, attention: nn.Module) -> jax.Array:
            y = conv(features, train, self.dtype, name=f"{name}_in")(x)
            y = keep_divided(masked(attention(keep_divided(y), mask), mask))
            return conv(features, train, self.dtype, name=f"{name}_out")(y)

        branches = {}
        if self.position_attention:
            position = anew(PositionAttention, "attention", self.remat, x)(
                backend=self.attention_backend, dtype=self.dtype, name="position_attention"
            )
            branches["position"] = branch("position", position)
        if self.channel_attention:
            channel = anew(ChannelAttention, "attention", self.remat, x)(
                energy=self.channel_energy, dtype=self.dtype, name="channel_attention"
            )
            branches["channel"] = branch("channel", channel)
        if branches:
            fusion = functools.reduce(jnp.add, branches.values())
        else:  # table 1's baseline, the dilated FCN
            fusion = conv(features, train, self.dtype, name="fcn_in")(x)
        return Logits(
            **{
                name: classify(
                    y,
                    self.num_classes,
                    self.dropout_rate,
                    f"{name}_classifier",
                    train=train,
                    dtype=self.dtype,
                )
                for name, y in {"fusion": fusion, **branches}.items()
            }
        )


class FCNHead(nn.Module):
    """mmsegmentation's auxiliary head on layer3: 3x3 to a quarter of the channels, BN, ReLU, classifier."""

    num_classes: int
    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None, *, train: bool) -> jax.Array:
        x = masked(x, None if sizes is None else inside(x, sizes))
        x = ConvBNReLU(x.shape[-1] // 4, train, self.dtype, name="in")(x)
        return classify(x, self.num_classes, self.dropout_rate, "classifier", train=train, dtype=self.dtype)


class DANet(nn.Module):
    """Dual Attention Network for scene segmentation (arXiv 1809.02983).

    >>> import jax, jax.numpy as jnp
    >>> from danet_jax import DANet
    >>> model = DANet(num_classes=19, backbone="resnet18")
    >>> images = jnp.zeros((1, 64, 96, 3))
    >>> variables = model.init(jax.random.key(0), images)
    >>> model.apply(variables, images).fusion.shape
    (1, 64, 96, 19)

    Attributes:
      num_classes: K, the channels of the logits.
      backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
      stem: "v1" (7x7; torchvision, the authors), "v1c" (mmsegmentation) or "v1s" (PyTorch-Encoding).
      output_stride: of the backbone, 8, 16 or 32.
      multi_grid: dilations of layer4's blocks, (4, 8, 16) in table 2; None for 2, 4, 4.
      position_attention, channel_attention: the branches; both off is table 1's dilated FCN.
      channel_energy: "official" or "paper", see `ChannelAttention`.
      align_corners: of the up-sampling to the input's size.
      auxiliary: whether layer3 has mmsegmentation's auxiliary head.
      dropout_rate: of whole channels before each classifier.
      dtype: of the computation, float32 or bfloat16; parameters, softmaxes and logits are float32.
      attention_backend: see `danet_jax.ops.attention.position_attention`.
      phases: of the dilated layers, see `ResNet`.
      remat: what training computes anew to save memory, one of `danet_jax.models.layers.REMAT`.
      second_dilation: of the backbone's basic blocks, see `ResNet`; False for mmsegmentation's.

    Raises:
      InputError: an option has a value that does not exist; the message names those that do.
    """

    num_classes: int
    backbone: str = "resnet50"
    stem: str = "v1"
    output_stride: int = 8
    multi_grid: tuple[int, ...] | None = None
    position_attention: bool = True
    channel_attention: bool = True
    channel_energy: str = "official"
    align_corners: bool = True
    auxiliary: bool = False
    dropout_rate: float = 0.1
    dtype: Any = jnp.float32
    attention_backend: str = "auto"
    phases: bool | None = None
    remat: str = "auto"
    second_dilation: bool = True

    def __post_init__(self) -> None:
        check_whole("num_classes", self.num_classes)
        for flag in ("position_attention", "channel_attention", "align_corners", "auxiliary"):
            check_flag(flag, getattr(self, flag))
        check_name("channel_energy", self.channel_energy, ENERGIES)
        check_name("attention_backend", self.attention_backend, BACKENDS)
        rate = self.dropout_rate
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1:
            raise InputError(f"dropout_rate={rate!r} must be a number of at least 0 and less than 1")
        # Built once for its checks, so that a wrong name is refused here and not at the first call.
        _backbone(self, parent=None)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        sizes: jax.Array | None = None,
        upsample: bool = True,
    ) -> Logits:
        """Logits of normalised images `[B, H, W, 3]`.

        Args:
          images: float, normalised by `danet_jax.ops.normalize.normalize`.
          train: batch statistics and dropout (needs the rng `dropout` and `mutable=["batch_stats"]`).
          sizes: int32 `[B, 2]`, the true heights and widths of images that were padded with zeros, after
            normalisation, at the right and the bottom. The logits inside an image are then exactly those of
            the image without padding, so that images of many sizes share one compiled shape. Not in training.
          upsample: False gives the logits at the backbone's resolution, `[B, ceil(H / 8), ceil(W / 8), K]`.

        Raises:
          InputError: arrays of other dtypes or shapes, such as images that are not normalised.
        """
        check_images(images)
        if sizes is not None:
            check_array("sizes", sizes, "B 2", "integer")
            check_shapes_fit(images=(images, "B H W 3"), sizes=(sizes, "B 2"))
        if train and sizes is not None:
            raise InputError("sizes serves inference: batch statistics would count the padding")
        features: Features = _backbone(self, name="backbone")(images, train=train, sizes=sizes)
        head = Head(
            self.num_classes,
            self.position_attention,
            self.channel_attention,
            self.channel_energy,
            self.dropout_rate,
            self.attention_backend,
            self.remat,
            self.dtype,
            name="head",
        )
        logits = head(features.layer4, features.sizes4, train=train)
        if self.auxiliary:
            auxiliary = FCNHead(self.num_classes, self.dropout_rate, self.dtype, name="auxiliary")
            logits = logits._replace(auxiliary=auxiliary(features.layer3, features.sizes3, train=train))
        if not upsample:
            return logits

        def up(x: jax.Array, feature_sizes: jax.Array | None) -> jax.Array:
            return resize_bilinear(
                x,
                (images.shape[1], images.shape[2]),
                align_corners=self.align_corners,
                input_sizes=feature_sizes,
                output_sizes=sizes,
            )

        sizes_of = {"auxiliary": features.sizes3}
        return logits._replace(
            **{
                name: up(x, sizes_of.get(name, features.sizes4))
                for name, x in logits._asdict().items()
                if x is not None
            }
        )


def _backbone(model: DANet, **place: Any) -> ResNet:
    return ResNet(
        model.backbone,
        model.stem,
        model.output_stride,
        model.multi_grid,
        model.dtype,
        model.phases,
        model.remat,
        model.second_dilation,
        **place,
    )
