"""Dividing attention over devices: the batch and the queries are divided, the keys are whole on every device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

Function = Callable[..., tuple[jax.Array, ...]]

FORWARD_RULE = "b n c, b m c, b m v -> b n v, b n"
BACKWARD_RULE = "b n c, b m c, b m v, b n v, b n, b n v -> b n c, b m c, b m v"
"""Arrays and results of the two directions in Shardy's notation: batch, queries, keys, channels."""


def partitioned(function: Function, rule: str) -> Function:
    """`function` as one operation that XLA divides by itself along the batch and the queries.

    XLA can neither look into a kernel nor guess that a loop over blocks needs no communication. So it is
    told: keys and values are gathered once, memory linear in their number; each device computes `function`
    of its own queries; results that have no queries, the gradients of keys and values, are summed. An axis
    that the devices do not divide evenly stays whole. On one device this is `function` and nothing else.
    """
    operands, results = ([part.split() for part in side.split(",")] for side in rule.split("->"))

    def partition(mesh: Any, arguments: Any, shapes: Any) -> Any:
        query = arguments[0]
        spec = tuple(query.sharding.spec) + (None,) * 3
        axes = {
            name: _dividing(mesh, spec[i], size)
            for i, (name, size) in enumerate(zip("bn", query.shape[:2], strict=True))
        }

        def sharding(dimensions: list[str]) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(*(axes.get(name) for name in dimensions)))

        def local(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(
                x if "n" in dimensions or axes["n"] is None else jax.lax.psum(x, axes["n"])
                for x, dimensions in zip(function(*arrays), results, strict=True)
            )

        return mesh, local, tuple(map(sharding, results)), tuple(map(sharding, operands))

    divided = custom_partitioning(function)
    divided.def_partition(partition, sharding_rule=rule, need_replication_factors=("c", "m", "v"))

    @custom_vmap
    def batched(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return divided(*arrays)

    @batched.def_vmap
    def _(size: int, mapped: list[bool], *arrays: jax.Array) -> Any:
        """A mapped axis becomes part of the batch."""
        merged = [
            (x if is_mapped else jax.numpy.broadcast_to(x, (size, *x.shape))).reshape(
                -1, *x.shape[1 + is_mapped :]
            )
            for x, is_mapped in zip(arrays, mapped, strict=True)
        ]
        outputs = tuple(x.reshape(size, -1, *x.shape[1:]) for x in batched(*merged))
        return outputs, (True,) * len(outputs)

    return batched


def _dividing(mesh: Any, axes: Any, size: int) -> tuple[str, ...] | None:
    """The mesh axes of a dimension as a tuple, or None if they do not divide it evenly."""
    if axes is None:
        return None
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    return axes if size % math.prod(mesh.shape[name] for name in axes) == 0 else None
