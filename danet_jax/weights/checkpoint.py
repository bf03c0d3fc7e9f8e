"""One function for every checkpoint: `load_checkpoint`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.weights import convert, zoo
from danet_jax.weights.description import KEY, Description, make_classes
from danet_jax.weights.download import fetch
from danet_jax.weights.files import WeightsFile, read_weights
from danet_jax.weights.names import Recognised, tensors
from danet_jax.weights.run_directory import is_run, read_run

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
_READ_FROM_TENSORS = (
    "num_classes",
    "backbone",
    "stem",
    "position_attention",
    "channel_attention",
    "auxiliary",
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A network and its weights.

    Attributes:
      model: a `DANet`, or a `ResNet` if the file holds a backbone alone.
      variables: what `model.apply` takes, float32 `jax.Array`s.
      classes: names and colours of the classes, where the file tells them.
      description: in one line, what was found and what was assumed.
      dropped: names of the tensors that were not needed.
      config: the recipe of the run, if it was trained here.
    """

    model: DANet | ResNet
    variables: Mapping[str, Any]
    classes: Classes | None
    description: str
    dropped: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_backbone(self) -> bool:
        """Whether it holds a backbone alone, which can start a training but segments nothing."""
        return isinstance(self.model, ResNet)

    @property
    def network(self) -> DANet:
        """The model, if it is a whole network; raises InputError if it is a backbone alone."""
        if not isinstance(self.model, DANet):
            raise InputError(
                "holds a backbone alone, which segments nothing; train it with --config.init.from"
            )
        return self.model


def load_checkpoint(path_or_name: str | os.PathLike[str], **overrides: Any) -> Checkpoint:
    """The network and the weights of any checkpoint of DANet, or of a ResNet.

    What it is is recognised by its content: a DANet of the authors' code or of mmsegmentation, a ResNet of
    torchvision, timm, PyTorch-Encoding or mmpretrain, as `.pth` or `.safetensors`; a `.safetensors` written by
    `--mode=export`; the directory of a run. Depth, stem, classes, branches and auxiliary head are read from the
    tensors. What they do not say (align_corners, multi-grid) is taken from the file's own description if it has
    one, else from the zoo's, else it is how its library trains.

    >>> from danet_jax import load_checkpoint
    >>> checkpoint = load_checkpoint("mmseg/danet_r50-d8_512x1024_40k_cityscapes")  # doctest: +SKIP
    >>> logits = checkpoint.model.apply(checkpoint.variables, images)  # doctest: +SKIP

    Args:
      path_or_name: a file, the directory of a run, or a name in `danet_jax.weights.zoo.ZOO` (downloaded once).
      **overrides: arguments of `DANet` that tensors do not say, for example `align_corners=True`.

    Raises:
      InputError: there is no such file or name, it cannot be read, tensors are missing, misshaped or unknown,
        or an override does not exist or contradicts the tensors; one line that names the file.
    """
    defaults: Mapping[str, Any] = {}
    path = Path(path_or_name)
    if not path.exists():
        entry = zoo.find(str(path_or_name))
        defaults, path = entry.options, fetch(entry.url, entry.sha256)
    try:
        if path.is_dir():
            return _from_run(path, overrides)
        file = read_weights(path)
        if any(name.startswith("params/") for name in file.tensors):
            return _from_own(file, overrides)
        return _from_others(file, defaults, overrides)
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _from_run(path: Path, overrides: Mapping[str, Any]) -> Checkpoint:
    if not is_run(path):
        raise InputError("a directory, but not of a run (it has no config.json)")
    run = read_run(path)
    model = _overridden(run.model, overrides)
    description = f"of a run here, step {run.step}: {_in_words(model)}"
    return Checkpoint(model, run.variables, run.classes, description, config=run.config)


def _from_own(file: WeightsFile, overrides: Mapping[str, Any]) -> Checkpoint:
    if KEY not in file.metadata:
        raise InputError(f"lacks the description {KEY!r} in its metadata")
    described = Description.from_json(file.metadata[KEY])
    model = _overridden(described.model.build(described.num_classes), overrides)
    options = {name: getattr(model, name) for name in _READ_FROM_TENSORS}
    expected = {"/".join(t.path): t.own_shape for t in tensors(Recognised("authors", "encoding", options))}
    found = {name: array.shape for name, array in file.tensors.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        raise InputError(f"tensors do not fit the network that it describes: {convert.listed(wrong)}")
    variables: dict[str, Any] = {}
    for name, array in file.tensors.items():
        *parents, leaf = name.split("/")
        branch = variables
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = array
    description = f"exported from a run here: {_in_words(model)}"
    return Checkpoint(model, _on_device(variables), described.classes, description, config=described.config)


def _from_others(file: WeightsFile, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> Checkpoint:
    converted = convert.convert(file.tensors)
    recognised = convert.recognise(convert.without_wrapping(file.tensors))
    layout = recognised.layout if recognised.has_head else "backbone"
    assumed = dict(_DEFAULTS[layout])
    if layout == "authors" and not any(
        recognised.options[f"{branch}_attention"] for branch in ("position", "channel")
    ):
        assumed["multi_grid"] = None  # PyTorch-Encoding's FCN, not the authors' DANet
    told: dict[str, Any] = {}
    classes, config = None, {}
    if isinstance(file.metadata.get(KEY), str):
        described = Description.from_json(file.metadata[KEY])
        told = {name: getattr(described.model.build(1), name) for name in (*assumed, *_FREE)}
        classes, config = described.classes, dict(described.config)
    elif layout == "mmseg":
        told = _told_by_mmseg(file.metadata)
        classes = _classes_of_mmseg(file.metadata, recognised.options["num_classes"])
    told = {**defaults, **told}
    assumed = {name: value for name, value in assumed.items() if name not in {**told, **overrides}}
    model: DANet | ResNet
    variables = converted.variables
    if recognised.has_head:
        model = DANet(**{**recognised.options, **assumed, **told})
    else:
        variables = {collection: branch["backbone"] for collection, branch in variables.items()}
        model = ResNet(**{**recognised.options, **assumed})
    model = _overridden(model, overrides)
    description = f"{_SOURCES[layout]}: {_in_words(model)}"
    if assumed and recognised.has_head:
        description += f"; not told by the file, so assumed: {_in_pairs(assumed)}"
    if convert.lacks_branch_classifiers(file.tensors):
        description += "; without classifiers of its branches, whose logits are 0"
    if layout == "mmseg" and model.backbone in ("resnet18", "resnet34"):
        description += "; mmsegmentation does not dilate the second convolution of basic blocks, this does"
    return Checkpoint(model, _on_device(variables), classes, description, converted.dropped, config)


_FREE = (
    "output_stride",
    "channel_energy",
    "align_corners",
    "multi_grid",
    "dropout_rate",
    "dtype",
    "attention_backend",
)


def _overridden(model: Any, overrides: Mapping[str, Any]) -> Any:
    free = [name for name in _FREE if hasattr(model, name)]
    fixed = [name for name in _READ_FROM_TENSORS if hasattr(model, name)]
    changes = {}
    for name, value in overrides.items():
        if name in fixed:
            if value != getattr(model, name):
                raise InputError(
                    f"{name}={value!r} contradicts its tensors, which are of {getattr(model, name)!r}"
                )
        elif name not in free:
            raise InputError(f"{name}={value!r}: no such option; there are: {', '.join(free)}")
        elif name == "dtype":
            if value not in (jnp.float32, jnp.bfloat16, "float32", "bfloat16"):
                raise InputError(f"dtype={value!r} does not exist; there are: float32, bfloat16")
            changes[name] = jnp.dtype(value)
        elif name == "multi_grid":
            if value and not isinstance(value, (tuple, list)):
                raise InputError(f"multi_grid={value!r} must be numbers such as (4, 8, 16), or None")
            changes[name] = tuple(value) if value else None
        elif isinstance(value, bool) != isinstance(getattr(model, name), bool):
            raise InputError(f"{name}={value!r} must be such as {getattr(model, name)!r}")
        else:
            changes[name] = value
    return model.clone(**changes)


_OUTPUT_STRIDES = {(1, 2, 1, 1): 8, (1, 2, 2, 1): 16, (1, 2, 2, 2): 32}
"""Of mmsegmentation's `strides` of the four stages, after a stem that divides by 4."""


def _mapping(value: Any) -> Mapping[str, Any]:
    """`value`, or nothing where a file holds something else in its place."""
    return value if isinstance(value, Mapping) else {}


def _tuple(name: str, text: str) -> tuple[int, ...]:
    """The numbers of the first `name=(...)` in `text`, on however many lines."""
    found = re.search(rf"\b{name}\s*=\s*\(([\d,\s]+)\)", text)
    return tuple(map(int, re.findall(r"\d+", found[1]))) if found else ()


def _told_by_mmseg(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the text of the training's config says, which mmsegmentation keeps beside the weights."""
    meta = _mapping(metadata.get("meta"))
    text = next((meta[k] for k in ("config", "cfg") if isinstance(meta.get(k), str)), "")
    told: dict[str, Any] = {}
    said = set(re.findall(r"align_corners\s*=\s*(True|False)", text))
    if len(said) == 1:
        told["align_corners"] = said == {"True"}
    # The backbone's come first in the text.
    if strides := _tuple("strides", text):
        if strides not in _OUTPUT_STRIDES:
            existing = ", ".join(map(str, _OUTPUT_STRIDES))
            raise InputError(f"its config has strides={strides}; there are: {existing}")
        told["output_stride"] = _OUTPUT_STRIDES[strides]
    if multi_grid := _tuple("multi_grid", text):
        told["multi_grid"] = multi_grid
    elif re.search(r"\bcontract_dilation\s*=\s*False", text):
        raise InputError("its config has contract_dilation=False, which does not exist here")
    return told


def _classes_of_mmseg(metadata: Mapping[str, Any], num_classes: int) -> Classes | None:
    meta = _mapping(metadata.get("meta"))
    described = {
        str(key).lower(): value for key, value in (_mapping(meta.get("dataset_meta")) or meta).items()
    }
    try:
        classes = make_classes(described["classes"], described.get("palette"))
    except (KeyError, TypeError, ValueError):
        return None
    return classes if len(classes) == num_classes else None


def _on_device(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Float32 copies as JAX's arrays; what they are made of may be a mapped file."""
    return jax.tree.map(lambda x: jnp.array(np.asarray(x, np.float32)), variables)


def _in_words(model: DANet | ResNet) -> str:
    words = f"{model.backbone} with stem {model.stem}"
    if isinstance(model, ResNet):
        return f"{words}, a backbone alone"
    branches = [name for name in ("position", "channel") if getattr(model, f"{name}_attention")]
    attention = f"{' and '.join(branches)} attention" if branches else "no attention"
    auxiliary = ", auxiliary head" if model.auxiliary else ""
    return f"{words}, {attention}{auxiliary}, {model.num_classes} classes"


def _in_pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
