"""DANet: the two attention modules on top of a dilated ResNet (section 3.4, figure 2) or of your own backbone."""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models.attention import ChannelAttention, PositionAttention
from danet_jax.models.layers import (
    REMAT,
    Computation,
    ConvBNReLU,
    Convolution,
    he_normal_over_outputs,
    masked,
    maybe_remat,
    torch_uniform,
    valid_mask,
)
from danet_jax.models.resnet import Features, ResNet, check_backbone_options
from danet_jax.ops.attention import BACKENDS
from danet_jax.ops.channel_attention import ENERGIES
from danet_jax.ops.checks import (
    check_arrays,
    check_choice,
    check_flag,
    check_images,
    check_whole,
    option_error,
)
from danet_jax.ops.resize import resize_bilinear
from danet_jax.ops.sharding import keep_sharded


class Logits(NamedTuple):
    """Class scores before the softmax, float32 `[B, H, W, num_classes]` each.

    Attributes:
      fusion: the prediction of the network.
      position, channel: the predictions of the two attention branches by themselves, which are used in the loss; None
        if the network does not have the branch.
      auxiliary: the prediction of the auxiliary head, which is used in the loss; None if there is no such head.

    Example:
      >>> import jax.numpy as jnp
      >>> from danet_jax import Logits
      >>> Logits(fusion=jnp.zeros((1, 64, 96, 19))).fusion.argmax(-1).shape
      (1, 64, 96)
    """

    fusion: jax.Array
    position: jax.Array | None = None
    channel: jax.Array | None = None
    auxiliary: jax.Array | None = None


def classify(
    x: jax.Array, num_classes: int, dropout_rate: float, name: str, *, train: bool, computation: Computation
) -> jax.Array:
    """Applies channel dropout and a 1x1 convolution with bias in the calling module's scope; returns float32 logits."""
    x = nn.Dropout(dropout_rate, broadcast_dims=(1, 2), deterministic=not train)(x)
    logits = Convolution(num_classes, use_bias=True, computation=computation, name=name)(keep_sharded(x))
    return keep_sharded(logits.astype(jnp.float32))


class Head(nn.Module):
    """The two attention branches, their sum, and a classifier for each of the three (figure 2).

    The attributes have the same meaning as in `DANet`.
    """

    num_classes: int
    position_attention: bool = True
    channel_attention: bool = True
    channel_energy: str = "official"
    dropout_rate: float = 0.1
    attention_backend: str = "auto"
    remat: str = "auto"
    computation: Computation = Computation()

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None = None, *, train: bool = False) -> Logits:
        """Computes logits at the resolution of the features.

        Args:
          x: features `[B, h, w, C]`.
          sizes: int `[B, 2]`, heights and widths of the images within the features; None if there is no padding.
          train: whether to use batch statistics and dropout.
        """
        features = x.shape[-1] // 4
        mask = valid_mask(x, sizes)
        x = masked(x, mask)
        computation = self.computation

        def convolution(x: jax.Array, name: str) -> jax.Array:
            module = ConvBNReLU(features, computation, name=name)
            return maybe_remat(module, "convolution", self.remat, x)(x, train=train)

        def branch(name: str, attention: nn.Module) -> jax.Array:
            y = keep_sharded(convolution(x, f"{name}_in"))
            y = maybe_remat(attention, "attention", self.remat, x)(y, mask)
            return convolution(keep_sharded(masked(y, mask)), f"{name}_out")

        branches = {}
        if self.position_attention:
            position = PositionAttention(
                backend=self.attention_backend, **vars(computation), name="position_attention"
            )
            branches["position"] = branch("position", position)
        if self.channel_attention:
            channel = ChannelAttention(
                self.channel_energy, computation.dtype, computation.param_dtype, name="channel_attention"
            )
            branches["channel"] = branch("channel", channel)
        # Without branches, this is the baseline in table 1, the dilated FCN.
        fusion = functools.reduce(jnp.add, branches.values()) if branches else convolution(x, "fcn_in")
        logits = {
            name: classify(
                y,
                self.num_classes,
                self.dropout_rate,
                f"{name}_classifier",
                train=train,
                computation=computation,
            )
            for name, y in {"fusion": fusion, **branches}.items()
        }
        return Logits(**logits)


class FCNHead(nn.Module):
    """mmsegmentation's auxiliary head on layer3: a 3x3 convolution to C / 4 channels, BN, ReLU and a classifier."""

    num_classes: int
    dropout_rate: float = 0.1
    computation: Computation = Computation()

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Computes logits at the resolution of features `[B, h, w, C]`; see `Head` for the arguments."""
        computation = self.computation
        x = masked(x, valid_mask(x, sizes))
        x = ConvBNReLU(x.shape[-1] // 4, computation, name="in")(x, train=train)
        return classify(
            x, self.num_classes, self.dropout_rate, "classifier", train=train, computation=computation
        )


class DANet(nn.Module):
    """Dual Attention Network for scene segmentation (arXiv 1809.02983).

    Attributes:
      num_classes: K, the number of classes and of channels of the logits.
      backbone: "resnet18", "resnet34", "resnet50" or "resnet101", or your own Linen module. Your module is called with
        normalised images `[B, H, W, 3]`, and with `train` if its `__call__` accepts it. It returns features
        `[B, ceil(H / s), ceil(W / s), C]`, or a pair of them, for the auxiliary head and for the attention modules. Its
        attribute `output_stride` is s. If its `__call__` also accepts `sizes` (see `DANet.__call__`), it returns
        `danet_jax.models.resnet.Features`; otherwise images are never padded.
      stem: "v1" (7x7, as in torchvision and the authors' code), "v1c" (mmsegmentation) or "v1s" (PyTorch-Encoding).
      output_stride: stride of the backbone's features: 8, 16 or 32. If `backbone` is a module, the module defines it.
      multi_grid: dilations of the blocks of layer4, (4, 8, 16) in table 2; None for 2, 4, 4.
      position_attention, channel_attention: whether to include the branches. Without both, the network is the dilated
        FCN of table 1.
      channel_energy: "official" or "paper"; see `ChannelAttention`.
      align_corners: whether up-sampling the logits to the size of the images aligns the centres of the corner pixels.
      auxiliary: whether to add mmsegmentation's auxiliary head to layer3.
      dropout_rate: fraction of channels that are dropped before each classifier.
      dtype: dtype of the computation: float32, bfloat16, or float16 for inference only; None for the dtype that images
        and parameters promote to. Softmaxes, batch statistics and logits are computed in float32.
      attention_backend: implementation of position attention; see `danet_jax.position_attention`.
      phases: how the dilated layers are computed; see `ResNet`.
      remat: what training recomputes to save memory; one of `danet_jax.models.layers.REMAT`.
      second_dilation: whether the second convolution of a basic block is dilated; see `ResNet`. False for networks of
        mmsegmentation.
      param_dtype: dtype of the parameters.
      precision: precision of convolutions as in `flax.linen.Conv`: None, "default", "high" or "highest". It has an
        effect on TPUs and GPUs; CPUs always multiply float32 in float32. Attention maps are always float32.
      kernel_init, bias_init: as in `flax.linen.Conv`, for all convolutions. None for He initialisation (fan-out) in the
        backbone and torch's default in the heads.

    Raises:
      InputError: an option has an invalid value.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from danet_jax import DANet
      >>> model = DANet(num_classes=19)
      >>> images = jnp.zeros((1, 64, 96, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)  # model.init makes the values
      >>> jax.eval_shape(model.apply, variables, images).fusion.shape
      (1, 64, 96, 19)
    """

    num_classes: int
    backbone: str | nn.Module = "resnet50"
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
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = None
    bias_init: Any = None

    def __post_init__(self) -> None:
        check_whole("num_classes", self.num_classes)
        for flag in ("position_attention", "channel_attention", "align_corners", "auxiliary"):
            check_flag(flag, getattr(self, flag))
        check_choice("channel_energy", self.channel_energy, ENERGIES)
        check_choice("attention_backend", self.attention_backend, BACKENDS)
        Computation.of(self)
        rate = self.dropout_rate
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1:
            raise option_error("dropout_rate", rate, "a number of at least 0 and less than 1")
        if isinstance(self.backbone, nn.Module):
            check_choice("remat", self.remat, REMAT)
            self._adopt_backbone(self.backbone)
        else:
            check_backbone_options(self)
        super().__post_init__()

    @property
    def accepts_sizes(self) -> bool:
        """Whether images may be padded: the backbone is a named one, or its `__call__` accepts `sizes`."""
        return isinstance(self.backbone, str) or _takes(self.backbone, "sizes")

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        sizes: jax.Array | None = None,
        upsample: bool = True,
    ) -> Logits:
        """Computes the logits of a batch of images.

        Args:
          images: float `[B, H, W, 3]`, normalised by `danet_jax.normalize`.
          train: whether to use batch statistics and dropout, which needs the rng `dropout` and
            `mutable=["batch_stats"]`.
          sizes: int32 `[B, 2]`, the heights and widths of images that were padded with zeros at the right and the
            bottom after normalisation. The logits inside an image are then exactly those of the image without padding,
            so that images of different sizes can share one compiled shape. Not supported in training.
          upsample: whether the logits have the size of the images instead of that of the backbone's features.

        Returns:
          The logits, float32 `[B, H, W, num_classes]`, or `[B, h, w, num_classes]` without up-sampling.

        Raises:
          InputError: an array has the wrong dtype or shape (for example, the images are not normalised), `sizes` is
            combined with `train` or not supported by the backbone, or `train` is combined with float16.
        """
        check_images(images, sizes=(sizes, "integer B 2 or None"))
        if sizes is not None and train:
            raise InputError(
                "sizes is not supported with train=True, because batch statistics would include the padding",
                what="sizes",
            )
        if sizes is not None and not self.accepts_sizes:
            name = type(self.backbone).__name__
            raise InputError(
                f"sizes is not supported by the backbone {name}; pass images without padding", what="sizes"
            )
        if train:
            refuse_float16_training(self)
        features = self._features(images, train=train, sizes=sizes)
        computation = Computation.of(self, kernel_init=torch_uniform)
        head = Head(
            self.num_classes,
            position_attention=self.position_attention,
            channel_attention=self.channel_attention,
            channel_energy=self.channel_energy,
            attention_backend=self.attention_backend,
            dropout_rate=self.dropout_rate,
            remat=self.remat,
            computation=computation,
            name="head",
        )
        logits = head(features.layer4, features.sizes4, train=train)
        if self.auxiliary:
            auxiliary = FCNHead(self.num_classes, self.dropout_rate, computation, name="auxiliary")
            logits = logits._replace(auxiliary=auxiliary(features.layer3, features.sizes3, train=train))
        if not upsample:
            return logits
        upsampled = {
            name: resize_bilinear(
                x,
                (images.shape[1], images.shape[2]),
                align_corners=self.align_corners,
                input_sizes=features.sizes3 if name == "auxiliary" else features.sizes4,
                output_sizes=sizes,
            )
            for name, x in logits._asdict().items()
            if x is not None
        }
        return Logits(**upsampled)

    def _features(self, images: jax.Array, *, train: bool, sizes: jax.Array | None) -> Features:
        if isinstance(self.backbone, str):
            backbone = ResNet(
                self.backbone,
                **{name: getattr(self, name) for name in _RESNET_OPTIONS},
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                precision=self.precision,
                kernel_init=self.kernel_init or he_normal_over_outputs,
                name="backbone",
            )
            return backbone(images, train=train, sizes=sizes)
        options: dict[str, Any] = {"train": train, "sizes": sizes}
        found = self.backbone(images, **{k: v for k, v in options.items() if _takes(self.backbone, k)})
        if not isinstance(found, Features):
            if sizes is not None:
                raise _backbone_error(
                    self.backbone, "accepts sizes, so it must return danet_jax.models.resnet.Features"
                )
            pair = found if isinstance(found, tuple | list) else (None, found)
            if len(pair) != 2:
                raise _backbone_error(
                    self.backbone, f"must return features or a pair of them, not {len(pair)} values"
                )
            found = Features(pair[0], pair[1], None, None)
        if self.auxiliary and found.layer3 is None:
            raise _backbone_error(self.backbone, "must return a pair of features for auxiliary=True")
        check_arrays(backbone=(found.layer4, "float B h w C"))
        expected = tuple(-(-extent // self.output_stride) for extent in images.shape[1:3])
        if found.layer4.shape[1:3] != expected:
            raise _backbone_error(
                self.backbone,
                f"has output_stride={self.output_stride}, so for images of {list(images.shape[1:3])} it must return "
                f"features of {list(expected)}, not {list(found.layer4.shape[1:3])}",
            )
        return found

    def _adopt_backbone(self, backbone: nn.Module) -> None:
        """Adopts the output stride of the caller's backbone, and refuses options that only named backbones have."""
        stride = getattr(backbone, "output_stride", None)
        if not isinstance(stride, int) or stride < 1:
            raise _backbone_error(backbone, f"must have an output_stride of at least 1, not {stride!r}")
        defaults = {name: type(self).__dataclass_fields__[name].default for name in _RESNET_OPTIONS}
        for name in _RESNET_OPTIONS:
            given = getattr(self, name)
            if name != "remat" and given != defaults[name] and (name, given) != ("output_stride", stride):
                raise option_error(name, given, "omitted, because it applies only to named backbones")
        if backbone.name not in (None, "backbone"):
            raise _backbone_error(backbone, f"must not have a name, but is named {backbone.name!r}")
        object.__setattr__(self, "output_stride", stride)


_RESNET_OPTIONS = ("stem", "output_stride", "multi_grid", "phases", "remat", "second_dilation")


def refuse_float16_training(model: nn.Module) -> None:
    """Raises InputError if a network computes in float16, because gradients underflow without loss scaling."""
    for name in ("dtype", "param_dtype"):
        value = getattr(model, name, None)
        if value is not None and jnp.dtype(value) == jnp.float16:
            raise InputError(
                f"{name}=float16 is supported for inference only; use bfloat16, which has the range of float32",
                what=name,
                value="float16",
                allowed=["float32", "bfloat16"],
            )


def _takes(backbone: Any, argument: str) -> bool:
    return argument in inspect.signature(type(backbone).__call__).parameters


def _backbone_error(backbone: Any, requirement: str) -> InputError:
    name = type(backbone).__name__
    return InputError(f"backbone: {name} {requirement}", what="backbone", value=name)
