"""Computes the names and shapes of a network's variables, and checks given variables against them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import BLOCKS, ResNet

COLLECTIONS = ("params", "batch_stats")

# Options that do not affect shapes. They are set to fixed values, so that networks that differ only in them are traced
# once.
_SHAPELESS = {
    "output_stride": 8,
    "multi_grid": None,
    "remat": "none",
    "phases": False,
    "dtype": jnp.float32,
    "attention_backend": "reference",  # Tracing the kernels of all platforms would take a third of the time.
}


def variable_shapes(model: nn.Module) -> dict[str, Any]:
    """Returns a network's variables as `jax.ShapeDtypeStruct`s, in the same tree as `model.init` returns."""
    if isinstance(model, DANet | ResNet) and isinstance(model.backbone, str):
        model = model.clone(**{name: value for name, value in _SHAPELESS.items() if hasattr(model, name)})
    try:
        traced = _trace(model, tuple(BLOCKS.items()))
    except TypeError:  # A module with a list among its attributes, such as nn.Sequential, cannot be hashed.
        traced = _trace.__wrapped__(model, ())
    return jax.tree.map(lambda shape: shape, traced)


@functools.lru_cache(maxsize=32)
def _trace(model: nn.Module, blocks: Any) -> dict[str, Any]:
    """Returns the shapes. They also depend on `blocks`, the items of `BLOCKS`, which tests change."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    is_deep = isinstance(model, DANet | ResNet) and model.backbone == "resnet101"
    # Tracing the further blocks of ResNet-101, which equal the second block of layer3, would take a second.
    traced = model.clone(backbone="resnet50") if is_deep else model
    variables = jax.eval_shape(traced.init, jax.random.key(0), images)
    variables = {name: variables[name] for name in COLLECTIONS if name in variables}
    for tree in variables.values() if is_deep else ():
        backbone = tree.get("backbone", tree)
        for index in range(BLOCKS["resnet50"][2], BLOCKS["resnet101"][2]):
            backbone[f"layer3_{index}"] = backbone["layer3_1"]
    return variables


def check_fits(model: nn.Module, variables: Any) -> None:
    """Raises InputError, naming the first missing or misshaped array, unless the variables fit the model."""
    if not isinstance(variables, Mapping) or not isinstance(variables.get("params"), Mapping):
        raise InputError(
            "variables must contain 'params' and 'batch_stats', as model.init returns them; they are of the type "
            f"{type(variables).__name__}",
            what="variables",
        )
    kept = {name: variables[name] for name in COLLECTIONS if name in variables}
    found, expected = (
        {path: list(np.shape(leaf)) for path, leaf in flatten_dict(tree, sep="/").items()}
        for tree in (kept, variable_shapes(model))
    )
    refuse_other_arrays(found, expected, "variables do not fit the model", what="variables")


def refuse_other_arrays(
    found: Mapping[str, Any], expected: Mapping[str, Any], problem: str, what: str | None = None
) -> None:
    """Raises InputError, naming the first array that differs, unless `found` equals `expected`.

    Args:
      found: the shape or another description of each array by its path, such as `params/head/.../kernel`.
      expected: the same for the model.
      problem: the beginning of the message.
      what: the error's `what`; by default, the path of the array.
    """
    different = sorted(path for path in found.keys() | expected if found.get(path) != expected.get(path))
    if different:
        name = f"{different[0]:.120}"
        array, model_array = (arrays.get(different[0], "missing") for arrays in (found, expected))
        more = f", and {len(different) - 1} more differ" if len(different) > 1 else ""
        raise InputError(
            f"{problem}: {name} is {array!s:.120}, in the model {model_array}{more}", what=what or name
        )


def refuse_not_finite(variables: Mapping[str, Any]) -> None:
    """Raises InputError, naming the array, if one contains NaN or Inf, because every predicted label would be 0."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"{name} contains NaN or Inf, so the network cannot be used", what=name)
