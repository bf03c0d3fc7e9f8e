"""The phases of a dilated convolution, on each of which it is an ordinary convolution.

A convolution with dilation d combines only positions whose rows and columns have the same remainders (r, c) modulo d.
Therefore, a dilated convolution of `[B, H, W, C]` equals a convolution without dilation of its d x d phases,
`[B * d * d, H / d, W / d, C]`. 1x1 convolutions, batch statistics and sums of two arrays do not depend on the order of
positions, so consecutive dilated blocks can all be computed in phases.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from danet_jax.ops.convolution.xla import Geometry, xla_kernel_gradient
from danet_jax.ops.sharding import DATA, SPACE


def regroup(x: jax.Array, old: int, new: int, shape: tuple[int, ...]) -> jax.Array:
    """Regroups features from `old` x `old` phases to `new` x `new` phases. 1 means features that are not divided.

    Args:
      x: `[B * old * old, ceil(H / old), ceil(W / old), C]`, phase (r, c) of image b at `(b * old + r) * old + c`.
      old: the number of phases along each axis of `x`.
      new: the number of phases along each axis of the result.
      shape: H and W.

    Returns:
      `[B * new * new, ceil(H / new), ceil(W / new), C]`. Positions beyond H and W are 0 after splitting, and keep the
      values of `x` after joining.
    """
    if old == new:
        return x
    if new % old and old % new:
        return regroup(regroup(x, old, 1, shape), 1, new, shape)
    batch, channels = x.shape[0] // old**2, x.shape[3]
    rows, columns = (-(-extent // new) for extent in shape)
    if new > old:
        factor = new // old
        behind = (factor * n - m for n, m in zip((rows, columns), x.shape[1:3], strict=True))
        x = jnp.pad(x, ((0, 0), *((0, n) for n in behind), (0, 0)))
        x = x.reshape(batch, old, old, rows, factor, columns, factor, channels)
        return x.transpose(0, 4, 1, 6, 2, 3, 5, 7).reshape(batch * new**2, rows, columns, channels)
    factor = old // new
    x = x.reshape(batch, factor, new, factor, new, *x.shape[1:])
    x = x.transpose(0, 2, 4, 5, 1, 6, 3, 7)
    x = x.reshape(batch * new**2, x.shape[3] * factor, x.shape[5] * factor, channels)
    return x[:, :rows, :columns]


def kernel_gradient_in_phases(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry
) -> jax.Array:
    """Computes the gradient of the kernel `[kh, kw, C, C']` of a dilated convolution with stride 1 in its phases."""
    dilation = geometry.dilation
    whole, rest = divmod(geometry.padding, dilation)
    x = jnp.pad(x, ((0, 0), (rest, rest), (rest, rest), (0, 0)))
    # Positions that are added to fill the phases contribute nothing, because dy is 0 there.
    x, dy = (regroup(a, 1, dilation, a.shape[1:3]) for a in (x, dy))
    return xla_kernel_gradient(x, kernel, dy, Geometry(1, whole, 1, geometry.precision))


def can_be_sharded(x: jax.Array, kernel: jax.Array, geometry: Geometry, mesh: AbstractMesh) -> bool:
    """Returns whether rows and images can be divided evenly, and the kernel reaches only rows of adjacent devices."""
    stride, padding, dilation, _ = geometry
    rows, rest = divmod(x.shape[1], mesh.shape[SPACE])
    keeps_the_size = stride == 1 and all(2 * padding == dilation * (n - 1) for n in kernel.shape[:2])
    return (
        keeps_the_size
        and not rest
        and rows >= padding > 0
        and x.shape[0] % mesh.shape.get(DATA, x.shape[0] + 1) == 0
    )


def sharded_kernel_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry, mesh: AbstractMesh
) -> jax.Array:
    """Computes the gradient of the kernel in phases if several devices share the rows of an image.

    Each device receives the adjacent rows that the kernel reaches from its neighbours, and computes the gradient of its
    own rows; the gradients are summed. XLA does not find this division by itself. `can_be_sharded` must be true.
    """
    padding, devices = geometry.padding, mesh.shape[SPACE]

    def on_device(x: jax.Array, dy: jax.Array) -> jax.Array:
        # At the upper and lower edge of the image, `ppermute` returns zeros, which are the padding.
        above = lax.ppermute(x[:, -padding:], SPACE, [(i, i + 1) for i in range(devices - 1)])
        below = lax.ppermute(x[:, :padding], SPACE, [(i + 1, i) for i in range(devices - 1)])
        x = jnp.concatenate([above, x, below], axis=1)
        x = jnp.pad(x, ((0, 0), (0, 0), (padding, padding), (0, 0)))
        gradient = kernel_gradient_in_phases(x, kernel, dy, geometry._replace(padding=0))
        return lax.psum(gradient, (DATA, SPACE))

    sharded = PartitionSpec(DATA, SPACE)
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(sharded, sharded), out_specs=PartitionSpec(), check_vma=False
    )(x, dy)
