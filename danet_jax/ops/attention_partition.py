"""Dividing attention over devices: images and queries are divided, the keys of an image are whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import AbstractMesh, PartitionSpec

Function = Callable[..., tuple[jax.Array, ...]]

FORWARD_RULE = "b n c, b m c, b m v -> b n v, b n"
BACKWARD_RULE = "b n c, b m c, b m v, b n v, b n, b n v -> b n c, b m c, b m v"
"""Arrays and results of the two directions: batch, queries, keys, channels."""


def divided(function: Function, rule: str, mesh: AbstractMesh | None) -> Function:
    """`function` on every device of `mesh` for its own images and queries.

    XLA can neither look into a kernel nor guess that a loop over blocks needs no communication, so the
    division is made by hand: keys and values are gathered once, in memory linear in their number, and the
    gradients of keys and values are summed over the devices that share an image.
    """
    if mesh is None or mesh.size == 1:
        return function
    operands, results = ([part.split() for part in side.split(",")] for side in rule.split("->"))

    def on_mesh(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        batch, queries = arrays[0].shape[:2]
        axes = division(mesh.shape, batch, queries)

        def local(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(
                jax.lax.psum(x, axes["n"]) if axes["n"] and "n" not in dimensions else x
                for x, dimensions in zip(function(*arrays), results, strict=True)
            )

        def specs(arrays: list[list[str]]) -> tuple[PartitionSpec, ...]:
            return tuple(PartitionSpec(*(axes.get(name) for name in dimensions)) for dimensions in arrays)

        # The check would need every kernel to declare over which axes its results vary.
        return jax.shard_map(
            local, mesh=mesh, in_specs=specs(operands), out_specs=specs(results), check_vma=False
        )(*arrays)

    return on_mesh


def division(mesh: Mapping[str, int], batch: int, queries: int) -> dict[str, tuple[str, ...]]:
    """Over which axes of `mesh` to divide the batch, `"b"`, and the queries, `"n"`.

    An axis goes to the batch if it divides what is left of it evenly, else to the queries likewise, else every
    device along it computes the same. So the axis `data` divides the images and the axis `space` the places of
    those that several devices share.
    """
    axes: dict[str, tuple[str, ...]] = {"b": (), "n": ()}
    for name, size in mesh.items():
        for dimension, extent in (("b", batch), ("n", queries)):
            if extent % (size * math.prod(mesh[other] for other in axes[dimension])) == 0:
                axes[dimension] += (name,)
                break
    return axes
