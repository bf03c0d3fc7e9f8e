"""The shapes of a network's variables, and whether those that a caller gives are such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.weights.description import READ_FROM_TENSORS
from danet_jax.weights.names import Recognised, tensors


def own_shapes(model: DANet) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's variables by their path, such as `params/head/.../kernel`."""
    options = {name: getattr(model, name) for name in READ_FROM_TENSORS}
    return {"/".join(t.path): t.own_shape for t in tensors(Recognised("authors", "encoding", options))}


def check_fits(model: nn.Module, variables: Any) -> None:
    """Raises InputError, naming the first that is missing or of another shape, unless variables are the model's."""
    if not isinstance(variables, Mapping) or not isinstance(variables.get("params"), Mapping):
        raise InputError(
            f"variables must hold what model.init gives, 'params' and 'batch_stats', not {type(variables).__name__}"
        )
    if isinstance(model, DANet):
        there = own_shapes(model)  # without tracing it, which takes seconds
    else:
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        there = _shapes(jax.eval_shape(model.init, jax.random.key(0), images))
    refuse_other_shapes(_shapes(variables), there, "variables do not fit the model")


def refuse_other_shapes(found: Mapping[str, Any], expected: Mapping[str, Any], problem: str) -> None:
    """Raises InputError that begins with `problem` unless shapes by path are those of the model."""
    wrong = sorted(path for path in found.keys() | expected if found.get(path) != expected.get(path))
    if wrong:
        here, there = (
            "missing" if wrong[0] not in shapes else str(list(shapes[wrong[0]]))
            for shapes in (found, expected)
        )
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{problem}: {wrong[0]} is {here}, in the model {there}{more}")


def refuse_no_numbers(variables: Mapping[str, Any]) -> None:
    """Raises InputError, naming the first, if there are values that are no finite numbers: all labels would be 0."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(
                f"{name} holds values that are no finite numbers: the file or its training is broken"
            )


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    kept = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    return {path: np.shape(leaf) for path, leaf in flatten_dict(kept, sep="/").items()}
