"""Shards features over a mesh of devices: images over the axis `data`, their rows over the axis `space`."""

from __future__ import annotations

import jax
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

DATA, SPACE = "data", "space"


def platform_of(x: jax.Array) -> str:
    """Returns the platform of the devices of `x`, or else the default one: "cpu", "cuda", "rocm" or "tpu"."""
    mesh = jax.typeof(x).sharding.mesh
    device = None if mesh.empty else mesh.abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "cuda" if platform == "gpu" else platform


def mesh_of(x: jax.Array) -> AbstractMesh | None:
    """Returns the mesh of `x` if it has several devices and XLA partitions the work among them, else None."""
    mesh = jax.typeof(x).sharding.mesh
    return None if mesh.empty or mesh.size == 1 or not mesh.are_all_axes_auto else mesh


def rows_are_sharded(x: jax.Array) -> bool:
    """Returns whether several devices share an image."""
    mesh = mesh_of(x)
    return mesh is not None and mesh.shape.get(SPACE, 1) > 1


def with_even_rows(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns arrays `[B, H, W, ...]`, whose rows are not sharded if devices would have different numbers of them.

    With such rows, XLA computed wrong sums on 8 CPU devices, namely kernel gradients of 3x3 and strided convolutions.
    """
    mesh = mesh_of(arrays[0])
    if mesh is None or all(x.shape[1] % mesh.shape.get(SPACE, 1) == 0 for x in arrays):
        return arrays
    unconstrained = PartitionSpec.UNCONSTRAINED
    unsharded_rows = NamedSharding(mesh, PartitionSpec(unconstrained, None, unconstrained, unconstrained))
    return tuple(lax.with_sharding_constraint(x, unsharded_rows) for x in arrays)


def keep_sharded(x: jax.Array) -> jax.Array:
    """Constrains `x` `[B, H, W, ...]` and its gradient to stay sharded over the axes of its mesh that divide it evenly.

    Without the constraint, XLA sometimes gathers complete images on each device, which transfers all activations.
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
