"""Dividing attention over devices: images and queries are divided, the keys of an image are whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from danet_jax.ops.sharding import SPACE

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def divided(kernel: Kernel, mesh: AbstractMesh | None) -> Kernel:
    """`kernel` on every device of `mesh` for its own images and queries.

    XLA can neither look into a kernel nor guess that a loop over blocks needs no communication, so the
    division is made by hand: keys and values are gathered once, in memory linear in their number, and the
    gradients of keys and values are summed over the devices that share an image.
    """
    if mesh is None:
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

    The axis `space` goes to the queries, whose rows it divides in all of the network, if it divides them evenly, any
    other axis to the batch; else to the other of the two likewise, else every device along it computes the same.
    """
    axes: dict[str, tuple[str, ...]] = {"b": (), "n": ()}
    for name, size in mesh.items():
        wishes = [("b", batch), ("n", queries)]
        for dimension, extent in reversed(wishes) if name == SPACE else wishes:
            if extent % (size * math.prod(mesh[other] for other in axes[dimension])) == 0:
                axes[dimension] += (name,)
                break
    return axes
