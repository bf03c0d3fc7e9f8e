"""What a caller gives to be applied, held against each other before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.weights.checkpoint import READ_FROM_TENSORS
from danet_jax.weights.names import Recognised, tensors

Shapes = dict[tuple[str, ...], tuple[int, ...]]


def checked_network(
    model: Any, variables: Any, protocol: Any, classes: Any, mesh: Any, *, check_variables: bool = True
) -> None:
    """Raises InputError, naming the argument, unless a network can be applied with these; None may be left out."""
    if not isinstance(model, nn.Module) or isinstance(model, ResNet) or not hasattr(model, "num_classes"):
        raise InputError(f"model must be a danet_jax.DANet, not {_found(model)}")
    if protocol is not None and not isinstance(protocol, Protocol):
        raise InputError(
            f"protocol={protocol!r} must be a danet_jax.Protocol, such as Protocol.preset('authors')"
        )
    if mesh is not None and not isinstance(mesh, Mesh):
        raise InputError(f"mesh must be a jax.sharding.Mesh, not {_found(mesh)}")
    if classes is not None and not isinstance(classes, Classes):
        raise InputError(
            f"classes must be danet_jax.Classes, such as Classes.named([...]), not {_found(classes)}"
        )
    if check_variables:
        _check_variables(model, variables)


def _check_variables(model: nn.Module, variables: Any) -> None:
    if not isinstance(variables, Mapping) or not isinstance(variables.get("params"), Mapping):
        raise InputError(
            f"variables must hold what model.init gives, 'params' and 'batch_stats', not {_found(variables)}"
        )
    if isinstance(model, DANet):
        options = {name: getattr(model, name) for name in READ_FROM_TENSORS}
        there = {t.path: t.own_shape for t in tensors(Recognised("authors", "encoding", options))}
    else:
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        there = _shapes(jax.eval_shape(model.init, jax.random.key(0), images))
    here = _shapes(variables)
    wrong = sorted("/".join(path) for path in here.keys() | there if here.get(path) != there.get(path))
    if wrong:
        path = tuple(wrong[0].split("/"))
        raise InputError(
            f"variables do not fit the model: {wrong[0]} is {_words(here.get(path))}, in the model "
            f"{_words(there.get(path))} ({len(wrong)} of {len(there)} differ)"
        )


def _shapes(variables: Mapping[str, Any]) -> Shapes:
    kept = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    return {tuple(map(str, path)): np.shape(leaf) for path, leaf in flatten_dict(kept).items()}


def _words(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _found(value: Any) -> str:
    return type(value).__name__
