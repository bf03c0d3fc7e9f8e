"""Loads a checkpoint of any supported kind with one function, `load_checkpoint`."""

from __future__ import annotations

import dataclasses
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.options import DTYPES
from danet_jax.models.resnet import ResNet, is_bottleneck
from danet_jax.models.variables import check_fits, refuse_not_finite
from danet_jax.ops.checks import check_choice
from danet_jax.ops.normalize import MEAN, STD
from danet_jax.runs.directory import is_run
from danet_jax.runs.files import as_path, is_bucket
from danet_jax.weights import mmsegmentation, zoo
from danet_jax.weights.convert import convert, join_names, remove_wrappers
from danet_jax.weights.description import FREE, KEY, Description, read_normalisation, verify
from danet_jax.weights.download import cached_path, download
from danet_jax.weights.files import WeightsFile, read_weights
from danet_jax.weights.mmsegmentation import Triple
from danet_jax.weights.names import READ_FROM_TENSORS, has_attention

if TYPE_CHECKING:
    from danet_jax.runs.stored import Run

_SOURCES = {"authors": "the authors' code", "mmseg": "mmsegmentation", "backbone": "an ImageNet classifier"}
# Defaults of options that tensors do not determine. The authors released only networks with multi-grid.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "authors": {"align_corners": True, "multi_grid": (4, 8, 16)},
    "mmseg": {"align_corners": False},
    "backbone": {"output_stride": 32},
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A network and its weights.

    Attributes:
      model: a `DANet`, or a `ResNet` if the file contains only a backbone.
      variables: the variables to pass to `model.apply`, as float32 `jax.Array`s.
      classes: names and colours of the classes; None if the file does not name them.
      description: one line that says what was found and what was assumed.
      dropped: names of the tensors that were not needed.
      config: the recipe of the run, if the network was trained with this package.
      mean, std: the normalisation that the network was trained with, for R, G and B in the range 0 to 1.
      bits: the bits per channel of the images that the network was trained on. Images with more than 8 bits are uint16
        in the range 0 to `2**bits - 1`.
    """

    model: DANet | ResNet
    variables: Mapping[str, Any]
    classes: Classes | None
    description: str
    dropped: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mean: Triple = MEAN
    std: Triple = STD
    bits: int = 8

    @property
    def bits_used(self) -> int:
        """The number of bits that 16-bit channels of image files use, as in the training data."""
        if self.bits > 8:
            return self.bits
        options = self.config.get("dataset", {}).get("options", {})
        used = options.get("bits") if isinstance(options, Mapping) else None
        return used if isinstance(used, int) and 8 <= used <= 16 else 16

    @property
    def is_backbone(self) -> bool:
        """Whether the checkpoint contains only a backbone, which can initialise a network but cannot segment images."""
        return isinstance(self.model, ResNet)

    @property
    def network(self) -> DANet:
        """The model, if it is a complete network. Raises InputError if it is a backbone."""
        if not isinstance(self.model, DANet):
            raise InputError(
                "contains only a backbone, which cannot segment images; train a network from it with "
                "--config.init.checkpoint"
            )
        return self.model

    def refuse_backbone(self, name: str | os.PathLike[str]) -> None:
        """Raises InputError if the checkpoint contains only a backbone; the message names the file."""
        try:
            _ = self.network
        except InputError as error:
            raise error.in_file(os.fspath(name)) from error


def load_checkpoint(path_or_name: str | os.PathLike[str], **overrides: Any) -> Checkpoint:
    """Returns the network and the weights of a DANet or ResNet checkpoint.

    The kind of checkpoint is recognised by its content. Supported are a DANet from the authors' code or mmsegmentation
    and a ResNet from torchvision, timm, PyTorch-Encoding or mmpretrain, as `.pth` or `.safetensors`; a `.safetensors`
    file written by `--mode=export`; and the directory of a run. Depth, stem, classes, branches and auxiliary head are
    read from the tensors. Options that tensors do not determine (such as `align_corners` and `multi_grid`) are taken
    from the file's own description if it has one, otherwise from the zoo, otherwise from the defaults of its library.

    >>> from danet_jax import load_checkpoint
    >>> checkpoint = load_checkpoint("mmseg/danet_r50-d8_512x1024_40k_cityscapes")  # doctest: +SKIP
    >>> logits = checkpoint.model.apply(checkpoint.variables, images)  # doctest: +SKIP

    Args:
      path_or_name: a file, the directory of a run, a name in `danet_jax.weights.zoo.ZOO`, or the address of a file
        such as `https://...`, `gs://...` or, if huggingface_hub is installed, `hf://OWNER/NAME/FILE`. Files from the
        zoo or at an address are downloaded once into the cache.
      **overrides: arguments of `DANet` that tensors do not determine, for example `align_corners=True`.

    Returns:
      The checkpoint; its `model` and `variables` are what `model.apply` needs.

    Raises:
      InputError: the file or name does not exist or cannot be read; tensors are missing, unknown or have the wrong
        shape; or an override does not exist or contradicts the tensors. The message names the file.
    """
    name = os.fspath(path_or_name)
    found = find(name)
    try:
        zoo_options: Mapping[str, Any] = {}
        if isinstance(found, zoo.Entry):
            zoo_options, path = found.options, download(found.url, cached_path(found.url), found.digest)
        elif isinstance(found, str):
            digest = next((entry.digest for entry in zoo.ZOO if entry.url == found), "")
            path = download(found, digest=digest)
            if path.suffix == ".json":
                raise InputError(
                    "the index of several files; download all of them into a folder and pass the path of the index"
                )
        elif found.is_dir():
            return _from_run(found, overrides)
        else:
            path = found
        file = read_weights(path)
        verify(file.tensors, file.metadata)
        if any(name.startswith("params/") for name in file.tensors):
            return _from_export(file, overrides)
        return _from_state_dict(file, zoo_options, overrides)
    except InputError as error:
        raise error if name in str(error) else error.in_file(name) from error


def find(name: str) -> Path | str | zoo.Entry:
    """Resolves a name to the path of a file or a run, the address of a file, or an entry of the zoo.

    Addresses are not checked, except that a run in a bucket is recognised.

    Raises:
      InputError: there is no such file or name.
    """
    if name.startswith("file://"):
        name = urllib.request.url2pathname(name.removeprefix("file://"))
    if is_bucket(name):
        return as_path(name) if name.startswith("gs://") and is_run(name) else name
    path = Path(name)
    try:
        if not path.exists():
            return zoo.find(name)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}", what=name) from error
    if path.is_dir() and not is_run(path):
        raise InputError(
            f"{name or '.'} is a directory, but not that of a run: it has no config.json", what=name
        )
    return path


def _from_run(path: Path, overrides: Mapping[str, Any]) -> Checkpoint:
    from danet_jax.runs.stored import read_run  # This import is slow, because it imports Orbax.

    run = read_run(path)
    return _trained_here(run, run.variables, _override(run.model, overrides), f"a run, step {run.step}")


def _from_export(file: WeightsFile, overrides: Mapping[str, Any]) -> Checkpoint:
    """Returns the network in a file written by `--mode=export`, which uses this package's names of the variables."""
    if KEY not in file.metadata:
        raise InputError(f"no description {KEY!r} in its metadata")
    description = Description.from_json(file.metadata[KEY])
    model = _override(description.model, overrides)
    variables = unflatten_dict(dict(file.tensors), sep="/")
    check_fits(model, variables)
    return _trained_here(description, _on_device(variables), model, "an exported run")


def _trained_here(
    trained: Run | Description, variables: Mapping[str, Any], model: DANet, source: str
) -> Checkpoint:
    """Returns a network that this package trained, with the normalisation in its run's config."""
    mean, std = read_normalisation(trained.config)
    return Checkpoint(
        model,
        variables,
        trained.classes,
        f"{source}: {_summary(model)}",
        config=trained.config,
        mean=mean,
        std=std,
        bits=trained.bits,
    )


def _from_state_dict(
    file: WeightsFile, zoo_options: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Checkpoint:
    """Returns the network in a file that uses PyTorch's names.

    Args:
      file: a file from the authors' code, from mmsegmentation or of an ImageNet classifier, or a run that was exported
        in the authors' layout.
      zoo_options: options from the zoo. The file's own options take precedence.
      overrides: options that the caller sets.
    """
    tensors, left_out = remove_wrappers(file.tensors)
    training = mmsegmentation.Config()
    if mmsegmentation.is_layout(tensors):
        training = mmsegmentation.read_config(file.metadata)
        tensors = mmsegmentation.as_two_classes(tensors, training.threshold)
    converted = convert(tensors)
    layout, variables = converted.layout, converted.variables
    bottleneck = is_bottleneck(converted.options["backbone"])
    if training.caffe and bottleneck:
        raise InputError(
            "its config has style='caffe', strides on 1x1 convolutions, which DANet does not support"
        )
    if training.bgr:
        stem = variables["params"]["backbone"]["stem"]["conv1"]
        stem["kernel"] = stem["kernel"][:, :, ::-1]
    mean, std = training.mean or MEAN, training.std or STD

    # The file's own description takes precedence over the zoo's, and both over the library's defaults.
    assumed = dict(_DEFAULTS[layout])
    if layout == "authors" and not has_attention(converted.options):
        assumed["multi_grid"] = None  # This is an FCN of PyTorch-Encoding, not a DANet of the authors.
    options = {**zoo_options, **training.options}
    classes, config = None, {}
    if isinstance(file.metadata.get(KEY), str):
        description = Description.from_json(file.metadata[KEY])
        options |= {name: getattr(description.model, name) for name in (*assumed, *FREE)}
        classes, config = description.classes, dict(description.config)
        mean, std = read_normalisation(config)
    elif layout == "mmseg":
        if not bottleneck:
            options["second_dilation"] = False
        classes = mmsegmentation.read_classes(file.metadata, converted.options["num_classes"])
    assumed = {name: value for name, value in assumed.items() if name not in {**options, **overrides}}
    model: DANet | ResNet
    if layout == "backbone":
        variables = {collection: branch["backbone"] for collection, branch in variables.items()}
        model = ResNet(**{**converted.options, **assumed})
    else:
        model = DANet(**{**converted.options, **assumed, **options})
    model = _override(model, overrides)

    lines = [f"{_SOURCES[layout]}: {_summary(model)}"]
    if training.bgr:
        lines.append("trained on BGR, its first convolution turned to RGB")
    if layout == "mmseg" and training.mean is None and not zoo_options:
        assumed["normalisation"] = "ImageNet's, RGB"
    if assumed and layout != "backbone":
        pairs = ", ".join(f"{name}={value}" for name, value in assumed.items())
        lines.append(f"not in the file, so assumed: {pairs}")
    if training.mean is not None and not np.allclose([mean, std], [MEAN, STD], atol=1e-4):
        lines.append(f"normalised by mean {_format(mean)}, std {_format(std)}")
    if training.threshold is not None:
        lines.append(f"its one sigmoid channel read as two classes, the second above {training.threshold}")
    if converted.fusion_only:
        lines.append("without classifiers of its branches, whose logits are 0")
    averaged = [name for name, value in file.metadata.items() if "ema" in name.lower() and value]
    if averaged or left_out:
        names = join_names([*averaged, *left_out], 4)
        lines.append(f"left out: {names}; to use an averaged copy of the network, save it alone")
    return Checkpoint(
        model,
        _on_device(variables),
        classes,
        "; ".join(lines),
        (*converted.dropped, *left_out),
        config,
        mean,
        std,
    )


def _override(model: Any, overrides: Mapping[str, Any]) -> Any:
    """Returns the model with the caller's options.

    Raises:
      InputError: an option does not exist, has an invalid value or contradicts the tensors.
    """
    free = [name for name in FREE if hasattr(model, name)]
    changes = dict(overrides)
    for name, value in overrides.items():
        if name in READ_FROM_TENSORS and hasattr(model, name):
            found = getattr(model, name)
            if value != found:
                raise InputError(
                    f"{name}={value!r} contradicts its tensors, which have {name}={found!r}",
                    value=value,
                    allowed=found,
                )
        elif name not in free:
            raise InputError(
                f"{name}={value!r} is not an option that can be set here; there are: {', '.join(free)}",
                value=name,
                allowed=free,
            )
        elif name == "dtype":
            if value not in DTYPES.values():
                check_choice("dtype", value, DTYPES)
            changes[name] = jnp.dtype(value)
        elif name == "multi_grid":
            changes[name] = tuple(value) if isinstance(value, list) else value or None
    return model.clone(**changes)


def _on_device(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns float32 copies as JAX arrays, because the originals may be views of a memory-mapped file."""
    refuse_not_finite(variables)
    return jax.tree.map(lambda x: jnp.array(np.asarray(x, np.float32)), variables)


def _summary(model: DANet | ResNet) -> str:
    words = f"{model.backbone} with stem {model.stem}"
    if isinstance(model, ResNet):
        return f"{words}, backbone only"
    branches = [name for name in ("position", "channel") if getattr(model, f"{name}_attention")]
    attention = f"{' and '.join(branches)} attention" if branches else "no attention"
    auxiliary = ", auxiliary head" if model.auxiliary else ""
    return f"{words}, {attention}{auxiliary}, {model.num_classes} classes"


def _format(numbers: Triple) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
