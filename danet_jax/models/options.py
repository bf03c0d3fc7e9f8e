"""A network from options as simple types, as a config or a JSON file holds them, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import BLOCKS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Names of the dtypes that a network computes in."""

_NOT_OPTIONS = (
    *("num_classes", "phases", "parent", "name"),
    *(
        "param_dtype",
        "precision",
        "kernel_init",
        "bias_init",
    ),  # they do not change the network that is stored
)
OPTIONS = tuple(field.name for field in dataclasses.fields(DANet) if field.name not in _NOT_OPTIONS)
"""Names of a network's options."""


def build_model(num_classes: int, options: Mapping[str, Any]) -> DANet:
    """The network of `DANet`'s other arguments, of which `dtype` is a name and no multi-grid is `()`.

    Raises:
      InputError: an option or a value that does not exist; the message names those that do.
    """
    arguments = dict(options)
    for name in arguments:
        if name not in OPTIONS:
            raise InputError(f"{name} does not exist; there are: {', '.join(OPTIONS)}")
    if "backbone" not in arguments:
        raise InputError(f"backbone is missing; there are: {', '.join(BLOCKS)}")
    dtype = arguments.setdefault("dtype", "float32")
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} does not exist; there are: {', '.join(DTYPES)}")
    arguments["dtype"] = DTYPES[dtype]
    arguments["multi_grid"] = tuple(arguments.get("multi_grid", ())) or None
    return DANet(num_classes=num_classes, **arguments)


def options_of(model: DANet) -> dict[str, Any]:
    """The inverse of `build_model`."""
    options = {name: getattr(model, name) for name in OPTIONS}
    return options | {"multi_grid": tuple(model.multi_grid or ()), "dtype": jnp.dtype(model.dtype).name}
