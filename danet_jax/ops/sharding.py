"""How features lie on a mesh of devices: images are divided over the axis `data`, their rows over `space`."""

from __future__ import annotations

import jax
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

DATA, SPACE = "data", "space"


def mesh_of(x: jax.Array) -> AbstractMesh | None:
    """The mesh that `x` is laid out over, if it has several devices and XLA divides the work among them."""
    mesh = jax.typeof(x).sharding.mesh
    return None if mesh.empty or mesh.size == 1 or not mesh.are_all_axes_auto else mesh


def rows_are_divided(x: jax.Array) -> bool:
    """Whether several devices share an image."""
    mesh = mesh_of(x)
    return mesh is not None and mesh.shape.get(SPACE, 1) > 1


def with_even_rows(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays `[B, H, W, ...]` as they are, or whole images where devices hold unequal numbers of rows.

    XLA's sums over such rows have been seen to be wrong: gradients to the kernels of convolutions of 3x3 and of strided
    ones, on 8 CPU devices.
    """
    mesh = mesh_of(arrays[0])
    if mesh is None or all(x.shape[1] % mesh.shape.get(SPACE, 1) == 0 for x in arrays):
        return arrays
    free = PartitionSpec.UNCONSTRAINED
    whole = NamedSharding(mesh, PartitionSpec(free, None, free, free))
    return tuple(lax.with_sharding_constraint(x, whole) for x in arrays)


def keep_divided(x: jax.Array) -> jax.Array:
    """`x` `[B, H, W, ...]` with images and rows where the axes of its mesh divide them, and its gradient likewise.

    Left to itself XLA sometimes gives each device whole images instead, and moves all activations to do so.
    """
    mesh = mesh_of(x)
    if mesh is None:
        return x
    axes = [
        name if extent % mesh.shape.get(name, extent + 1) == 0 else PartitionSpec.UNCONSTRAINED
        for extent, name in zip(x.shape, (DATA, SPACE), strict=False)
    ]
    rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 2)
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes, *rest)))
