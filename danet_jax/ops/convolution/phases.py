"""The phases of a dilated convolution: on each of them it is an ordinary one.

Places whose row and column leave the remainders (r, c) when divided by the dilation d meet only places of the same
remainders. So `[B, H, W, C]` split into its d x d phases, `[B * d * d, H / d, W / d, C]`, meets the kernel
without dilation. Products of single places, statistics over all of them and sums of two arrays do not depend
on the order of places, so that a run of dilated blocks can stay in phases from the first to the last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from danet_jax.ops.convolution.xla import Geometry, xla_kernel_gradient


def regroup(x: jax.Array, old: int, new: int, shape: tuple[int, ...]) -> jax.Array:
    """Regroups features from `old` x `old` phases to `new` x `new` of them; 1 is the features as they are.

    Args:
      x: `[B * old * old, ceil(H / old), ceil(W / old), C]`, phase (r, c) of image b at `(b * old + r) * old + c`.
      old: phases along an axis of `x`.
      new: phases along an axis of the result.
      shape: H and W.

    Returns:
      `[B * new * new, ceil(H / new), ceil(W / new), C]`, places beyond H and W are 0 after splitting, and
      whatever `x` holds there after joining.
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
    x: jax.Array, dy: jax.Array, kernel_size: tuple[int, int], geometry: Geometry
) -> jax.Array:
    """Computes the gradient to the kernel `[kh, kw, C, C']` of a dilated convolution with stride 1 in its phases."""
    dilation = geometry.dilation
    whole, rest = divmod(geometry.padding, dilation)
    x = jnp.pad(x, ((0, 0), (rest, rest), (rest, rest), (0, 0)))
    # Places that are added to fill the phases contribute nothing, because dy is 0 there.
    phases, results = (regroup(a, 1, dilation, (a.shape[1], a.shape[2])) for a in (x, dy))
    kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[3], dy.shape[3]), x.dtype)
    return xla_kernel_gradient(phases, kernel, results, Geometry(1, whole, 1, geometry.precision))
