"""A protocol from options as simple types, as a config or a JSON file holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol

_OPTIONS = {field.name for field in dataclasses.fields(Protocol)} - {"name", "bits", "flip_pairs", "mirrored"}


def protocol_of(config: Mapping[str, Any]) -> Protocol:
    """Returns the protocol of a recipe.

    It is the one that `evaluation.protocol` names, for the data set `dataset.name`, with fields replaced by the other
    options of `evaluation`: None keeps the protocol's own value, and `()` removes a window, a stride or a base size. A
    `base_size` of one number is the length of the long side, of two the size of a box; `whole_base_size` applies to the
    protocol "whole" alone. Without `dataset.flip` no mirrored image is scored, because its classes depend on the side;
    `dataset.flip_pairs` are swapped in the scores of mirrored images.

    Args:
      config: the recipe as nested mappings, with at least the groups `dataset` and `evaluation`.

    Raises:
      InputError: a group that is missing, an option that does not exist, or a value that makes no sense.
    """
    for group in ("dataset", "evaluation"):
        if not isinstance(config.get(group), Mapping):
            raise InputError(
                f"config.{group}={config.get(group)!r} must be a group of options",
                what=f"config.{group}",
                value=config.get(group),
            )
    dataset = config["dataset"]
    changes = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["evaluation"].items()
        if value is not None
    }
    name, whole_base_size = changes.pop("protocol", "whole"), changes.pop("whole_base_size", None)
    for key in changes.keys() - _OPTIONS:
        raise InputError(
            f"config.evaluation.{key} does not exist; it has: {', '.join(sorted(_OPTIONS))}",
            what=f"config.evaluation.{key}",
            allowed=_OPTIONS,
        )
    if name == "whole" and whole_base_size is not None:
        changes.setdefault("base_size", whole_base_size)
    if not dataset.get("flip", True):
        if changes.get("flip"):
            raise InputError(
                "config.evaluation.flip=True mirrors images, but by config.dataset.flip=False their classes depend on "
                "the side; set config.evaluation.flip=False too",
                what="config.evaluation.flip",
                value=True,
            )
        changes["flip"] = False
    for key in {"window", "stride", "base_size"} & changes.keys():
        changes[key] = changes[key] or None
    if isinstance(base := changes.get("base_size"), tuple) and len(base) == 1:
        changes["base_size"] = base[0]
    if "window" in changes and changes["window"] is None:
        changes["stride"] = None
    try:
        protocol = Protocol.preset(str(name), str(dataset.get("name", "cityscapes"))).replace(**changes)
        return protocol.replace(flip_pairs=tuple(dataset.get("flip_pairs") or ()) if protocol.flip else ())
    except InputError as error:
        raise error.in_group("config.evaluation.") from error
