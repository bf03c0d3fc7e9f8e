"""Bilinear resizing as two small matrix products."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from danet_jax.ops.checks import check_arrays, check_whole
from danet_jax.ops.precision import float32_einsum


def bilinear_weights(size: int, new_size: int, *, align_corners: bool) -> np.ndarray:
    """Returns the matrix of a resized axis, float32 `[new_size, size]`; each row has at most two non-zero weights."""
    position = np.arange(new_size, dtype=np.float64)
    if align_corners:
        position = position * ((size - 1) / (new_size - 1) if new_size > 1 else 0.0)
    else:
        position = np.maximum((position + 0.5) * (size / new_size) - 0.5, 0.0)
    low = np.minimum(np.floor(position).astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    fraction = position - low
    weights = np.zeros((new_size, size), np.float64)
    rows = np.arange(new_size)
    np.add.at(weights, (rows, low), 1.0 - fraction)
    np.add.at(weights, (rows, high), fraction)
    return weights.astype(np.float32)


class Taps(NamedTuple):
    """A linear map along an axis: each of `n` new samples is a weighted sum of `t` old ones.

    Attributes:
      index: int32 `[t, ..., n]`, the indices of the old samples.
      weight: float32 `[t, ..., n]`, their weights.
    """

    index: Any
    weight: Any


def bilinear_taps(index: Any, size: Any, new_size: Any, *, align_corners: bool) -> Taps:
    """Returns the two samples, with their weights, that are interpolated when an axis is resized.

    Positions are computed as exact fractions of integers, so that rounding cannot move a sample to a neighbour, for
    sizes below 32,768. Samples beyond the ends are replaced by those at the ends.

    Args:
      index: int `[..., n]`, indices of the new samples to compute.
      size: the old size of the axis; an int, or an array that broadcasts against `index`.
      new_size: the new size of the axis; an int, or an array that broadcasts against `index`.
      align_corners: see `resize_bilinear`.

    Returns:
      Taps `[2, ..., n]`, as NumPy arrays if all arguments are NumPy arrays or Python integers.
    """
    known = all(isinstance(value, (int, np.integer, np.ndarray)) for value in (index, size, new_size))
    xp: Any = np if known else jnp
    index, size, new_size = (xp.asarray(value, xp.int32) for value in (index, size, new_size))
    axes = (1,) * (index.ndim - max(size.ndim, new_size.ndim))
    size, new_size = size.reshape(axes + size.shape), new_size.reshape(axes + new_size.shape)
    index = xp.clip(index, 0, new_size - 1)
    if align_corners:
        denominator = xp.maximum(new_size - 1, 1)
        numerator = index * (size - 1)
    else:
        denominator = xp.maximum(2 * new_size, 1)
        numerator = xp.maximum((2 * index + 1) * size - new_size, 0)
    low = xp.minimum(numerator // denominator, size - 1)
    fraction = (numerator - low * denominator).astype(xp.float32) / denominator.astype(xp.float32)
    return Taps(xp.stack([low, xp.minimum(low + 1, size - 1)]), xp.stack([1 - fraction, fraction]))


def dense(taps: Taps, extent: Any) -> jax.Array:
    """Returns `taps` as a matrix, float32 `[..., n, extent]`, for an axis with `extent` samples."""
    sample = lax.broadcasted_iota(jnp.int32, (*taps.index.shape[1:], extent), taps.index.ndim - 1)
    parts = [
        jnp.where(sample == index[..., None], weight[..., None], jnp.float32(0))
        for index, weight in zip(jnp.asarray(taps.index), jnp.asarray(taps.weight), strict=True)
    ]
    return functools.reduce(jnp.add, parts)


def resize_bilinear(
    x: jax.Array,
    shape: tuple[int, int],
    *,
    align_corners: bool,
    input_sizes: jax.Array | None = None,
    output_sizes: jax.Array | None = None,
) -> jax.Array:
    """Resizes images bilinearly, like torch's `interpolate`.

    Two samples per axis are interpolated even if the image becomes smaller (no antialiasing). The operation is a linear
    map of `x` that consists of two matrix products, so the gradient is as fast as the value on every device.

    Args:
      x: float32, bfloat16 or float16 `[B, h, w, C]`.
      shape: H and W. They and the size of `x` may be symbolic dimensions of `jax.export`.
      align_corners: whether to align the centres of the corner pixels, as in the authors' code, or their outer edges.
      input_sizes: int32 `[B, 2]`, heights and widths of the images within `x`, which are padded at the right and the
        bottom; None if there is no padding.
      output_sizes: int32 `[B, 2]`, heights and widths of the images within the result; None for the size of the result.
        Inside an image, the result equals that of resizing the image without padding; outside, it is 0.

    Returns:
      `[B, H, W, C]` of the dtype of `x`; the products are accumulated in float32.

    Raises:
      InputError: `x` has the wrong dtype or shape, or a size is below 1.
    """
    check_arrays(x=(x, "float B h w C"))
    for axis, size in enumerate(shape):
        if not is_symbolic_dim(size):
            check_whole(f"shape[{axis}]", size)

    def weights(axis: int) -> jax.Array:
        old, new = x.shape[1 + axis], shape[axis]
        if (
            input_sizes is None
            and output_sizes is None
            and not (is_symbolic_dim(old) or is_symbolic_dim(new))
        ):
            return jnp.asarray(bilinear_weights(old, new, align_corners=align_corners))[None]
        # These sizes are known only at run time.
        size, new_size = (
            jnp.asarray(extent).reshape(1, 1) if sizes is None else sizes[:, axis, None]
            for extent, sizes in ((old, input_sizes), (new, output_sizes))
        )
        sample = jnp.arange(new, dtype=jnp.int32)[None]
        taps = bilinear_taps(sample, size, new_size, align_corners=align_corners)
        return jnp.where((sample < new_size)[..., None], dense(taps, old), 0.0)

    # Columns are resized first, so that the larger product, over rows, is one matrix product per image.
    return along_rows(weights(0), along_columns(weights(1), x.astype(jnp.float32))).astype(x.dtype)


def along_columns(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies `[B, W, w]` with `[B, h, w, C]` to `[B, h, W, C]`, in float32."""
    weights = jnp.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
    # With columns innermost, one matrix applies to all rows. A copy for each row would be far larger than an image.
    return jnp.swapaxes(float32_einsum("bhcw,bvw->bhcv", jnp.swapaxes(x, 2, 3), weights), 2, 3)


def along_rows(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies `[B, H, h]` with `[B, h, w, C]` to `[B, H, w, C]`, in float32."""
    batch, height, width, channels = x.shape
    weights = jnp.broadcast_to(weights, (batch, *weights.shape[1:]))
    y = float32_einsum("buh,bhn->bun", weights, x.reshape(batch, height, width * channels))
    return y.reshape(batch, weights.shape[1], width, channels)
