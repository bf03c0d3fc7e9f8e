"""Starting a training from a checkpoint: what of it fits is taken, and what was done with the rest is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.weights.checkpoint import Checkpoint

_Flat = dict[tuple[str, ...], Any]


def initialize_from(
    checkpoint: Checkpoint, model: DANet, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Fresh `variables` of `model` with those of `checkpoint` put in place where they fit.

    The backbone must be the same. Heads are taken if the checkpoint has them; classifiers of another number of
    classes, and modules that the checkpoint has not, keep their fresh values.

    Returns:
      The variables, each with the dtype and the sharding of the fresh one, and a report: lines of what was taken,
      what starts anew, and what was left behind.

    Raises:
      InputError: the checkpoint is of another backbone, or stem.
    """
    found = checkpoint.model
    for option in ("backbone", "stem"):
        here, there = getattr(model, option), getattr(found, option)
        if here != there:
            raise InputError(
                f"the checkpoint has {option} {there}, the network has {here}; set --config.model.{option}={there}"
            )
    fresh: _Flat = flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    loaded: _Flat = flatten_dict(checkpoint.variables)
    if isinstance(found, ResNet):
        loaded = {(collection, "backbone", *rest): leaf for (collection, *rest), leaf in loaded.items()}
    fitting = {path for path in fresh if path in loaded and jnp.shape(loaded[path]) == jnp.shape(fresh[path])}
    result = {path: _like(loaded[path], leaf) if path in fitting else leaf for path, leaf in fresh.items()}
    mismatched = {path for path in fresh if path in loaded} - fitting
    report = [
        f"from the checkpoint: {_modules(fitting)}",
        f"anew, not in the checkpoint: {_modules(fresh.keys() - loaded.keys())}",
        f"anew, {getattr(found, 'num_classes', 0)} classes there and {model.num_classes} here: "
        f"{_modules(mismatched)}",
        f"left behind, not in this network: {_modules(loaded.keys() - fresh.keys())}",
    ]
    return unflatten_dict(result), [
        *(line for line in report if not line.endswith(": ")),
        *_differing_options(found, model),
    ]


def _differing_options(found: DANet | ResNet, model: DANet) -> list[str]:
    """Options that change what the same weights compute, one line each, with the flag that takes them over."""
    if isinstance(found, ResNet):  # a classifier is dilated anew by every segmentation network
        return []
    pairs = [(name, getattr(found, name), getattr(model, name)) for name in _CHANGING]
    return [
        f"the checkpoint's network has {name}={there}, this one {here}: the same weights give other labels at the "
        f"start; --config.model.{name}={there if there is not None else '()'} takes it over"
        for name, there, here in pairs
        if there != here
    ]


_CHANGING = ("multi_grid", "second_dilation", "align_corners", "output_stride", "channel_energy")


def _like(value: Any, fresh: Any) -> Any:
    value = jnp.asarray(value, fresh.dtype)
    return jax.device_put(value, fresh.sharding) if isinstance(fresh, jax.Array) else value


def _modules(paths: set[tuple[str, ...]]) -> str:
    """The modules that parameters belong to: `backbone`, and the parts of the heads."""
    return ", ".join(sorted({path[1] if path[1] == "backbone" else "/".join(path[1:3]) for path in paths}))
