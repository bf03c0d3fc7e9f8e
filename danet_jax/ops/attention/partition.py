"""Dividing attention over devices: images and queries are divided, the keys of an image are whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import AbstractMesh, PartitionSpec

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def divided(kernel: Kernel, mesh: AbstractMesh) -> Kernel:
    """`kernel` on every device of `mesh` for its own images and queries.

    XLA can neither look into a kernel nor guess that a loop over blocks needs no communication, so the
    division is made by hand: keys and values are gathered once, in memory linear in their number, and the
    gradients of keys and values are summed over the devices that share an image.
    """
    if mesh.empty or mesh.size == 1 or not mesh.are_all_axes_auto:
        return kernel

    def on_mesh(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        axes = division(mesh.shape, *query.shape[:2])
        by_image, by_query = PartitionSpec(axes["b"]), PartitionSpec(axes["b"], axes["n"])
        # The check would need every kernel to declare over which axes its results vary.
        return jax.shard_map(
            kernel, mesh=mesh, in_specs=(by_query, by_image, by_image), out_specs=by_query, check_vma=False
        )(query, key, value)

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
