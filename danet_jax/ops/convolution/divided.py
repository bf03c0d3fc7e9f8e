"""The gradient to the kernel of a dilated convolution by phases, where several devices share the rows of an image.

Each device takes the rows next to its own from its neighbours, as many as the kernel reaches over, and goes through
the phases of what it then has; the gradients are summed. XLA does not find this division by itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from danet_jax.ops.convolution.phases import kernel_gradient_in_phases
from danet_jax.ops.convolution.xla import Geometry
from danet_jax.ops.sharding import DATA, SPACE


def can_be_divided(x: jax.Array, kernel: jax.Array, geometry: Geometry, mesh: AbstractMesh) -> bool:
    """Returns whether all devices of a mesh get equally many rows and images, and a kernel reaches neighbours only."""
    stride, padding, dilation, _ = geometry
    rows, rest = divmod(x.shape[1], mesh.shape[SPACE])
    keeps_the_size = stride == 1 and all(2 * padding == dilation * (n - 1) for n in kernel.shape[:2])
    return (
        keeps_the_size
        and not rest
        and rows >= padding > 0
        and x.shape[0] % mesh.shape.get(DATA, x.shape[0] + 1) == 0
    )


def divided_kernel_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry, mesh: AbstractMesh
) -> jax.Array:
    """Computes `[kh, kw, C, C']` from `x` `[B, H, W, C]` and `dy` `[B, H, W, C']`, where `can_be_divided`."""
    padding, devices = geometry.padding, mesh.shape[SPACE]
    size = kernel.shape[0], kernel.shape[1]

    def of_own_rows(x: jax.Array, dy: jax.Array) -> jax.Array:
        # At the upper and lower edge of the image nothing is received: these zeros are the padding.
        above = lax.ppermute(x[:, -padding:], SPACE, [(i, i + 1) for i in range(devices - 1)])
        below = lax.ppermute(x[:, :padding], SPACE, [(i + 1, i) for i in range(devices - 1)])
        x = jnp.concatenate([above, x, below], axis=1)
        x = jnp.pad(x, ((0, 0), (0, 0), (padding, padding), (0, 0)))
        return lax.psum(kernel_gradient_in_phases(x, dy, size, geometry._replace(padding=0)), (DATA, SPACE))

    own = PartitionSpec(DATA, SPACE)
    return jax.shard_map(
        of_own_rows, mesh=mesh, in_specs=(own, own), out_specs=PartitionSpec(), check_vma=False
    )(x, dy)
