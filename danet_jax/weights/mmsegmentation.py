"""Reads the training config, which is text, and the classes from the metadata of an mmsegmentation checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.ops.batch_norm import EPSILON
from danet_jax.weights.description import make_classes
from danet_jax.weights.names import PREFIXES

Triple = tuple[float, float, float]

# After a stem of stride 4, the strides of the four stages determine the output stride, which determines the dilations.
_OUTPUT_STRIDES = {(1, 2, 1, 1): 8, (1, 2, 2, 1): 16, (1, 2, 2, 2): 32}
_DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}

_THRESHOLD = 0.3
"""mmsegmentation's default threshold for a sigmoid channel."""

_CLASSIFIERS = (
    "decode_head.conv_seg",
    "decode_head.pam_conv_seg",
    "decode_head.cam_conv_seg",
    "auxiliary_head.conv_seg",
)


class Config(NamedTuple):
    """The relevant parts of the training config.

    Attributes:
      options: arguments of `DANet`.
      mean, std: the normalisation, for R, G and B in the range 0 to 1; None if there is no config.
      bgr: whether the network takes BGR images, as Caffe's backbones do.
      caffe: whether the stride of a bottleneck is on its first 1x1 convolution, as in Caffe.
      threshold: the threshold of a single sigmoid channel that represents two classes; None if each class has a
        channel.
    """

    options: Mapping[str, Any] = {}
    mean: Triple | None = None
    std: Triple | None = None
    bgr: bool = False
    caffe: bool = False
    threshold: float | None = None


def read_config(metadata: Mapping[str, Any]) -> Config:
    """Returns the relevant parts of the training config in a checkpoint's metadata.

    Raises:
      InputError: the config describes a network that is not supported, or contradicts itself.
    """
    text = _text(metadata)
    options: dict[str, Any] = {}
    align_corners = set(re.findall(r"align_corners\s*=\s*(True|False)", text))
    if len(align_corners) == 1:
        options["align_corners"] = align_corners == {"True"}
    # The first match in the text belongs to the backbone.
    if strides := _integers("strides", text):
        if strides not in _OUTPUT_STRIDES:
            supported = ", ".join(map(str, _OUTPUT_STRIDES))
            raise InputError(f"its config has strides={strides}; supported are {supported}", value=strides)
        options["output_stride"] = _OUTPUT_STRIDES[strides]
    if multi_grid := _integers("multi_grid", text):
        options["multi_grid"] = multi_grid
    _refuse_other_network(text, options)
    mean, std, bgr = _normalisation(text)
    threshold = None
    if re.search(r"\bout_channels\s*=\s*1\b", text):
        found = re.search(r"\bthreshold\s*=\s*([\d.]+)", text)
        threshold = float(found[1]) if found else _THRESHOLD
        if not 0 < threshold < 1:
            raise InputError(
                f"its config has threshold={threshold}, which must be between 0 and 1", value=threshold
            )
    caffe = re.search(r"\bstyle\s*=\s*['\"]caffe['\"]", text) is not None
    return Config(options, mean, std, bgr, caffe, threshold)


def _refuse_other_network(text: str, options: Mapping[str, Any]) -> None:
    """Raises InputError if the config makes the same tensors compute something that `DANet` does not."""
    dilations = _integers("dilations", text)
    expected = _DILATIONS[options.get("output_stride", 8)]
    if dilations and dilations != expected:
        raise InputError(
            f"its config has dilations={dilations}; with its strides, only {expected} is supported",
            value=dilations,
            allowed=expected,
        )
    # With contract_dilation, the dilation of the first block is halved in these stages; multi-grid sets its own.
    halved = [d for d in dilations[: 3 if "multi_grid" in options else 4] if d > 1]
    contracted = re.search(r"\bcontract_dilation\s*=\s*(True|False)", text)
    if (contracted is None and halved) or (
        contracted and contracted[1] == "False" and (halved or not dilations)
    ):
        raise InputError(
            "its config has contract_dilation=False, mmsegmentation's default, which DANet does not support"
        )
    for epsilon in re.findall(r"\bnorm_cfg\s*=\s*dict\([^()]*\beps\s*=\s*([\d.e+-]+)", text):
        if not math.isclose(float(epsilon), EPSILON):
            raise InputError(f"its config has eps={epsilon} in norm_cfg; only {EPSILON} is supported")


def is_layout(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the tensors have mmsegmentation's names."""
    return any(name.startswith(PREFIXES["mmseg"]) for name in tensors)


def as_two_classes(tensors: Mapping[str, np.ndarray], threshold: float | None) -> Mapping[str, np.ndarray]:
    """Returns tensors with a channel for each of two classes if the head has a single sigmoid channel for both.

    Of the logits (0, x - log(t / (1 - t))), the second is larger if and only if sigmoid(x) > t. With several scales or
    flipping, where mmsegmentation averages sigmoid(x), this is true only for t = 0.5.

    Args:
      tensors: the tensors of a network.
      threshold: the threshold t of the sigmoid channel; None if the config does not describe one.

    Raises:
      InputError: the head has a single channel, but there is no threshold.
    """
    single = [name for name in _CLASSIFIERS if np.shape(tensors.get(f"{name}.bias", ())) == (1,)]
    if not single:
        return tensors
    if threshold is None:
        raise InputError(
            f"{single[0]} has a single channel, and the file has no config with out_channels=1, so the meaning of the "
            "channel is unknown"
        )
    shift = np.float32(math.log(threshold / (1 - threshold)))
    changed = dict(tensors)
    for name in single:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        changed[f"{name}.weight"] = np.concatenate([np.zeros_like(weight), weight])
        changed[f"{name}.bias"] = np.concatenate([np.zeros_like(bias), bias - shift])
    return changed


def read_classes(metadata: Mapping[str, Any], num_classes: int) -> Classes | None:
    """Returns the classes in the metadata, or None unless there are `num_classes` of them."""
    meta = _mapping(metadata.get("meta"))
    described = {
        str(key).lower(): value for key, value in (_mapping(meta.get("dataset_meta")) or meta).items()
    }
    try:
        classes = make_classes(described["classes"], described.get("palette"))
    except (KeyError, TypeError, ValueError):
        return None
    return classes if len(classes) == num_classes else None


def _text(metadata: Mapping[str, Any]) -> str:
    """Returns the config: `meta.config` in version 0.x, `meta.cfg` in 1.x, or `runtime_info.cfg` of mmengine."""
    hub = _mapping(_mapping(metadata.get("message_hub")).get("runtime_info"))
    candidates = [
        source.get(key) for source in (_mapping(metadata.get("meta")), hub) for key in ("config", "cfg")
    ]
    return next((text for text in candidates if isinstance(text, str)), "")


def _normalisation(text: str) -> tuple[Triple | None, Triple | None, bool]:
    triple = r"\s*=\s*[\[(]\s*([-\d.]+)\s*,\s*([-\d.]+)\s*,\s*([-\d.]+)\s*,?\s*[\])]"
    found = {name: set(re.findall(rf"\b{name}{triple}", text)) for name in ("mean", "std")}
    orders = set(re.findall(r"\b(?:to_rgb|bgr_to_rgb)\s*=\s*(True|False)", text))
    several = [name for name, values in {**found, "to_rgb": orders}.items() if len(values) > 1]
    if several:
        raise InputError(
            f"its config has several values of {several[0]}: {sorted(map(str, found.get(several[0], orders)))}"
        )
    bgr = orders == {"False"}

    def unit(name: str) -> Triple | None:
        if not found[name]:
            return None
        [texts] = found[name]
        values = [float(value) / 255 for value in texts]
        red, green, blue = reversed(values) if bgr else values
        return red, green, blue

    return unit("mean"), unit("std"), bgr


def _mapping(value: Any) -> Mapping[str, Any]:
    """Returns `value` if it is a mapping, otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


def _integers(name: str, text: str) -> tuple[int, ...]:
    """Returns the numbers of the first `name=(...)` or `name=[...]` in `text`, which may span several lines."""
    found = re.search(rf"\b{name}\s*=\s*[\[(]([\d,\s]+)[\])]", text)
    return tuple(map(int, re.findall(r"\d+", found[1]))) if found else ()
