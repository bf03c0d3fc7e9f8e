"""Converts between networks and their options as plain values, which recipes and JSON files contain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import BLOCKS
from danet_jax.ops.checks import check_choice

TRAINING_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The dtypes by name that a network can be trained in."""

DTYPES = {**TRAINING_DTYPES, "float16": jnp.float16}
"""The dtypes by name that a network can compute in."""

# The options in the second line do not change what a stored network computes.
_NOT_OPTIONS = {"num_classes", "parent", "name"}
_NOT_OPTIONS |= {"phases", "param_dtype", "precision", "kernel_init", "bias_init"}
OPTIONS = tuple(field.name for field in dataclasses.fields(DANet) if field.name not in _NOT_OPTIONS)
"""The names of a network's options."""


def build_model(num_classes: int, options: Mapping[str, Any]) -> DANet:
    """Returns the network with the given options.

    Args:
      num_classes: the number of classes.
      options: other arguments of `DANet`, with `dtype` as a name, and `()` for `multi_grid=None`.

    Raises:
      InputError: an option or value does not exist; the message lists those that do.
    """
    for name in options:
        if name not in OPTIONS:
            raise InputError(
                f"{name} does not exist; there are: {', '.join(OPTIONS)}", what=name, allowed=OPTIONS
            )
    if "backbone" not in options:
        raise InputError(
            f"backbone is missing; there are: {', '.join(BLOCKS)}", what="backbone", allowed=tuple(BLOCKS)
        )
    dtype = options.get("dtype", "float32")
    check_choice("dtype", dtype, DTYPES)
    multi_grid = options.get("multi_grid") or None
    if isinstance(multi_grid, list):
        multi_grid = tuple(multi_grid)
    return DANet(num_classes, **{**options, "dtype": DTYPES[dtype], "multi_grid": multi_grid})


def options_of(model: DANet) -> dict[str, Any]:
    """Returns the options of a network. This is the inverse of `build_model`.

    Raises:
      InputError: the backbone is a module of the caller, which has no name.
    """
    if not isinstance(model.backbone, str):
        name = type(model.backbone).__name__
        raise InputError(
            f"backbone={name} is a custom module; only networks with a named backbone ({', '.join(BLOCKS)}) can be "
            "stored or exported",
            what="backbone",
            value=name,
            allowed=tuple(BLOCKS),
        )
    options = {name: getattr(model, name) for name in OPTIONS}
    dtype = jnp.dtype(model.dtype or jnp.float32).name
    return options | {"multi_grid": tuple(model.multi_grid or ()), "dtype": dtype}
