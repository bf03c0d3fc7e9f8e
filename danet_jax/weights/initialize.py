"""Initialises a network with the pretrained weights that fit, and reports the others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.models.variables import check_fits
from danet_jax.ops.normalize import MEAN, STD
from danet_jax.weights.checkpoint import Checkpoint, load_checkpoint

_Flat = dict[tuple[str, ...], Any]


def load_pretrained(
    model: DANet, variables: Mapping[str, Any], path_or_name: str | os.PathLike[str]
) -> dict[str, Any]:
    """Returns the variables of a new network, initialised with the weights of a checkpoint where they fit.

    >>> import jax
    >>> from danet_jax import DANet, load_pretrained
    >>> model = DANet(num_classes=5, backbone="resnet18")
    >>> variables = jax.jit(model.init)(jax.random.key(0), images)  # doctest: +SKIP
    >>> variables = load_pretrained(model, variables, "torchvision/resnet18")  # doctest: +SKIP

    The checkpoint must have the same backbone and stem as the model. Its heads are used too, if it has any, except for
    classifiers with another number of classes. A warning is issued if the checkpoint's network computes different
    results from the same weights, for example because of its `multi_grid`, or if it was not trained with ImageNet's
    normalisation.

    Args:
      model: the network.
      variables: the variables that `model.init` returned.
      path_or_name: an ImageNet classifier, another backbone or a complete DANet; see `load_checkpoint`.

    Returns:
      `params` and `batch_stats`, each leaf with the dtype and sharding of the one in `variables`.

    Raises:
      InputError: the variables do not fit the model, or the checkpoint does not exist or has another backbone or stem.
    """
    check_fits(model, variables)
    checkpoint = load_checkpoint(path_or_name)
    refuse_other_backbone(checkpoint, model, path_or_name)
    variables, _ = initialize_from(checkpoint, model, variables)
    for line in differing_options(checkpoint.model, model):
        warnings.warn(f"{path_or_name}: {line}", stacklevel=2)
    if not np.allclose([checkpoint.mean, checkpoint.std], [MEAN, STD], atol=1e-4):
        warnings.warn(
            f"{path_or_name} was trained on images with mean {checkpoint.mean} and std {checkpoint.std}; normalise "
            "your images in the same way, with danet_jax.normalize(images, mean, std)",
            stacklevel=2,
        )
    return variables


def initialize_from(
    checkpoint: Checkpoint, model: DANet, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Replaces the variables of `model` by those of `checkpoint` where they fit.

    The checkpoint must have the same backbone and stem as the model; see `refuse_other_backbone`.

    Returns:
      The variables, and a report whose lines say which ones come from the checkpoint, which keep their initial values,
      which ones of the checkpoint were not used, and which options differ.
    """
    found = checkpoint.model
    initial: _Flat = flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    loaded: _Flat = flatten_dict(checkpoint.variables)
    if isinstance(found, ResNet):
        loaded = {(collection, "backbone", *rest): leaf for (collection, *rest), leaf in loaded.items()}
    shared = initial.keys() & loaded.keys()
    fitting = {path for path in shared if jnp.shape(loaded[path]) == jnp.shape(initial[path])}
    result = {
        path: _like_initial(loaded[path], leaf) if path in fitting else leaf for path, leaf in initial.items()
    }
    classes = (
        f"{getattr(found, 'num_classes', 0)} classes in the checkpoint, {model.num_classes} in this network"
    )
    report = {
        "from the checkpoint": fitting,
        "initial values, not in the checkpoint": initial.keys() - loaded.keys(),
        f"initial values, {classes}": shared - fitting,
        "not used, not in this network": loaded.keys() - initial.keys(),
    }
    return unflatten_dict(result), [
        *(f"{line}: {_modules(paths)}" for line, paths in report.items() if paths),
        *differing_options(found, model),
    ]


def refuse_other_backbone(checkpoint: Checkpoint, model: DANet, path: str | os.PathLike[str]) -> None:
    """Raises InputError if the checkpoint at `path` has another backbone or stem than `model`."""
    for option in ("backbone", "stem"):
        requested, stored = getattr(model, option), getattr(checkpoint.model, option)
        if requested != stored:
            raise InputError(
                f"{path} has {option}={stored}, but the network has {option}={requested}; set "
                f"--config.model.{option}={stored}",
                what=os.fspath(path),
                value=requested,
                allowed=stored,
            )


def differing_options(found: DANet | ResNet, model: DANet) -> list[str]:
    """Returns a line for each differing option that changes what the weights compute, with the flag to set."""
    if isinstance(found, ResNet):  # Segmentation networks always dilate the classifier's convolutions.
        return []
    pairs = [(name, getattr(found, name), getattr(model, name)) for name in _CHANGING]
    return [
        f"the checkpoint's network has {name}={there}, this one {name}={here}, so that the same weights initially give "
        f"other labels; set --config.model.{name}={there if there is not None else '()'} for the same labels"
        for name, there, here in pairs
        if there != here
    ]


_CHANGING = ("multi_grid", "second_dilation", "align_corners", "output_stride", "channel_energy")


def _like_initial(value: Any, initial: Any) -> Any:
    value = jnp.asarray(value, initial.dtype)
    return jax.device_put(value, initial.sharding) if isinstance(initial, jax.Array) else value


def _modules(paths: Any) -> str:
    """Returns the names of the modules that variables belong to: `backbone`, or a part of a head."""
    return ", ".join(sorted({path[1] if path[1] == "backbone" else "/".join(path[1:3]) for path in paths}))
