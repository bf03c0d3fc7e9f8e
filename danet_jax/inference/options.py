"""A protocol from options as simple types, as a config or a JSON file holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol

_OPTIONS = (
    "protocol",
    "whole_base_size",
    *(
        field.name
        for field in dataclasses.fields(Protocol)
        if field.name not in ("name", "flip_pairs", "mirrored")
    ),
)


def protocol_of(config: Mapping[str, Any]) -> Protocol:
    """The protocol of a recipe, of which `config` holds at least the groups `dataset` and `evaluation`.

    It is the one that `evaluation.protocol` names, for the data set of that name, with fields replaced by the other
    options: None leaves the protocol's own value, and `()` takes a window, a stride or a base size away. A `base_size`
    of one number is the length of the long side, of two the size of a box. `whole_base_size` is a recipe's own base
    size of the protocol "whole", for images that are not taken at their own size. With `dataset.flip` off classes mean
    a side, so that no mirrored image may be scored; `dataset.flip_pairs` are swapped where one is.

    Raises:
      InputError: a value that does not exist or makes no sense; the message gives the config's key.
    """
    dataset, options = config["dataset"], config["evaluation"]
    for key in options:
        if key not in _OPTIONS:
            raise InputError(f"config.evaluation.{key} does not exist; it has: {', '.join(_OPTIONS)}")
    changes: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in options.items() if v is not None
    }
    name, whole_base_size = changes.pop("protocol", "whole"), changes.pop("whole_base_size", None)
    if name == "whole" and whole_base_size is not None:
        changes.setdefault("base_size", whole_base_size)
    if not dataset.get("flip", True):
        if changes.get("flip"):
            raise InputError(
                "config.evaluation.flip=True mirrors images whose classes mean a side, by config.dataset.flip; leave "
                "it out"
            )
        changes["flip"] = False
    for key in {"window", "stride", "base_size"} & changes.keys():
        changes[key] = changes[key] or None
    if len(changes.get("base_size") or ()) == 1:
        [changes["base_size"]] = changes["base_size"]
    if "window" in changes and changes["window"] is None:
        changes["stride"] = None
    try:
        protocol = Protocol.preset(name, dataset["name"]).replace(**changes)
        return protocol.replace(flip_pairs=tuple(dataset.get("flip_pairs", ())) if protocol.flip else ())
    except InputError as error:
        raise InputError(f"config.evaluation.{error}") from error
