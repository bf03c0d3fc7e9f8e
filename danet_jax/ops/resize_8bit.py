"""OpenCV's bilinear resizing of 8-bit images with bit-identical results, as matrix products, which need no gathers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.ops.resize import Taps, along_columns, along_rows, dense

_ONE = 2048
"""OpenCV's weights are multiples of 1 / 2048."""


def opencv_taps(index: Any, size: Any, new_size: Any, *, of_columns: bool) -> Taps:
    """Returns the samples and rounded weights that `cv2.resize` with `INTER_LINEAR` uses.

    Args:
      index: int `[n]`, indices of samples on the resized axis. The result is undefined for indices outside of it.
      size: int, the old size of the axis.
      new_size: int, the new size of the axis.
      of_columns: whether the axis is that of columns, whose two ends OpenCV treats differently from those of rows.

    Returns:
      Taps `[2, n]`, with weights from 0 to 2048. If the sizes are symbolic dimensions of `jax.export`, the weights are
      the same except where they are halfway between two integers.
    """
    position: Any
    low: Any
    if isinstance(size, (int, np.integer)) and isinstance(new_size, (int, np.integer)):
        xp: Any = np
        # OpenCV computes in double and then in float precision, and this rounding affects the result.
        position = ((index + 0.5) * (1.0 / (new_size / size)) - 0.5).astype(np.float32)
        low = np.floor(position).astype(np.int32)
    else:
        xp = jnp
        size, new_size = jnp.asarray(size, jnp.int32), jnp.asarray(new_size, jnp.int32)
        numerator = (2 * index + 1) * size - new_size
        low = numerator // (2 * new_size)
        rest = (numerator - low * 2 * new_size).astype(jnp.float32) / (2 * new_size).astype(jnp.float32)
        position = low.astype(jnp.float32) + rest
        low = jnp.floor(position).astype(jnp.int32)
    fraction = position - low.astype(xp.float32)
    if of_columns:
        fraction = xp.where((low < 0) | (low >= size - 1), xp.float32(0), fraction)
        low = xp.clip(low, 0, size - 1)
    weights = xp.stack([1 - fraction, fraction]) * xp.float32(_ONE)
    return Taps(xp.clip(xp.stack([low, low + 1]), 0, size - 1).astype(xp.int32), xp.rint(weights))


def resize_8bit(images: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
    """Resizes images with the weights of `opencv_taps`.

    Args:
      images: uint8 `[B, H, W, C]`.
      rows: taps `[2, B or 1, h]`.
      columns: taps `[2, B or 1, w]`.

    Returns:
      Uint8 `[B, h, w, C]`.
    """
    # These are integers below 2^24, which float32 represents exactly.
    x = along_columns(dense(columns, images.shape[2]), images.astype(jnp.float32)).astype(jnp.int32)
    x = (x >> 4).astype(jnp.float32)
    half = []
    for index, weight in zip(jnp.asarray(rows.index), jnp.asarray(rows.weight), strict=True):
        chosen = along_rows(dense(Taps(index[None], jnp.ones_like(weight)[None]), images.shape[1]), x)
        half.append((chosen.astype(jnp.int32) * weight.astype(jnp.int32)[:, :, None, None]) >> 16)
    return ((half[0] + half[1] + 2) >> 2).astype(jnp.uint8)
