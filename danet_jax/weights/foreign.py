"""Networks in other people's files: what tensors and texts say of one, what is assumed, what is to be told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet, is_bottleneck
from danet_jax.ops.normalize import MEAN, STD
from danet_jax.weights import mmsegmentation
from danet_jax.weights.convert import convert, listed, unwrapped
from danet_jax.weights.description import FREE, KEY, Description, normalisation_of
from danet_jax.weights.files import WeightsFile
from danet_jax.weights.mmsegmentation import Told, Triple
from danet_jax.weights.names import has_attention

_SOURCES = {
    "authors": "of the authors' code",
    "mmseg": "of mmsegmentation",
    "backbone": "an ImageNet classifier",
}
# What tensors do not say. The authors trained and tested every network that they released with multi-grid.
_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "authors": {"align_corners": True, "multi_grid": (4, 8, 16)},
    "mmseg": {"align_corners": False},
    "backbone": {"output_stride": 32},
}


class Foreign(NamedTuple):
    """A network as it was found; see `danet_jax.weights.checkpoint.Checkpoint`.

    `source` says whose it is, `remarks` what was assumed or done to it.
    """

    model: DANet | ResNet
    variables: Mapping[str, Any]
    source: str
    remarks: list[str]
    dropped: tuple[str, ...]
    classes: Classes | None
    config: Mapping[str, Any]
    mean: Triple
    std: Triple


def read_foreign(file: WeightsFile, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> Foreign:
    """The network of a file.

    Args:
      file: of the authors' code, of mmsegmentation, of an ImageNet classifier, or exported so from a run here.
      defaults: options that are known from elsewhere; the file's own come first.
      overrides: options that will be set, so that nothing is assumed of them.

    Raises:
      InputError: it holds no such network, or none that exists here.
    """
    tensors, left_out = unwrapped(file.tensors)
    told = mmsegmentation.told(file.metadata) if mmsegmentation.is_layout(tensors) else Told()
    converted = convert(mmsegmentation.two_classes(tensors, told.threshold))
    layout, variables = converted.layout, converted.variables
    bottleneck = is_bottleneck(converted.options["backbone"])
    if told.caffe and bottleneck:
        raise InputError(
            "its config has style='caffe', strides on 1x1 convolutions, which does not exist here"
        )
    assumed = dict(_DEFAULTS[layout])
    if layout == "authors" and not has_attention(converted.options):
        assumed["multi_grid"] = None  # PyTorch-Encoding's FCN, not the authors' DANet

    options: Mapping[str, Any] = {}
    classes, config = None, {}
    mean, std = told.mean or MEAN, told.std or STD
    if isinstance(file.metadata.get(KEY), str):
        described = Description.from_json(file.metadata[KEY])
        options = {name: getattr(described.build(1), name) for name in (*assumed, *FREE)}
        classes, config = described.classes, dict(described.config)
        mean, std = normalisation_of(config)
    elif layout == "mmseg":
        options = told.options
        if not bottleneck:
            options = {**options, "second_dilation": False}
        classes = mmsegmentation.classes_of(file.metadata, converted.options["num_classes"])
    options = {**defaults, **options}
    assumed = {name: value for name, value in assumed.items() if name not in {**options, **overrides}}

    if told.bgr:
        stem = variables["params"]["backbone"]["stem"]["conv1"]
        stem["kernel"] = stem["kernel"][:, :, ::-1]
    model: DANet | ResNet
    if layout == "backbone":
        variables = {collection: branch["backbone"] for collection, branch in variables.items()}
        model = ResNet(**{**converted.options, **assumed})
    else:
        model = DANet(**{**converted.options, **assumed, **options})

    if layout == "mmseg" and told.mean is None and not defaults:
        assumed["normalisation"] = "ImageNet's, RGB"
    beside = [name for name, value in file.metadata.items() if "ema" in name.lower() and value]
    besides = listed([*beside, *left_out], 4)
    in_pairs = ", ".join(f"{name}={value}" for name, value in assumed.items())
    remarks = {
        "trained on BGR, its first convolution turned to RGB": told.bgr,
        f"not told by the file, so assumed: {in_pairs}": assumed and layout != "backbone",
        f"normalised by mean {_rounded(mean)}, std {_rounded(std)}": (
            told.mean is not None and not np.allclose([mean, std], [MEAN, STD], atol=1e-4)
        ),
        f"its one sigmoid channel read as two classes, the second above {told.threshold}": (
            told.threshold is not None
        ),
        "without classifiers of its branches, whose logits are 0": converted.fusion_only,
        f"left out, beside the network: {besides}; to use an averaged copy, save it alone": besides,
    }
    return Foreign(
        model,
        variables,
        _SOURCES[layout],
        [remark for remark, applies in remarks.items() if applies],
        (*converted.dropped, *left_out),
        classes,
        config,
        mean,
        std,
    )


def _rounded(numbers: Triple) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
