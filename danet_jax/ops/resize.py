"""Bilinear resizing as two small matrix products."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim as is_symbolic

from danet_jax.ops.checks import check_array, check_whole
from danet_jax.ops.precision import float32_einsum


def bilinear_weights(size: int, new_size: int, *, align_corners: bool) -> np.ndarray:
    """Returns float32 `[new_size, size]`: row i holds the at most two weights of the samples in sample i."""
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
    """The samples of an axis, `t` of them, that are mixed into each of `n` new ones: a linear map.

    Attributes:
      index: int32 `[t, ..., n]`, the samples.
      weight: float32 `[t, ..., n]`, their weights.
    """

    index: Any
    weight: Any


def bilinear_taps(index: Any, size: Any, new_size: Any, *, align_corners: bool) -> Taps:
    """Returns the two samples of an axis of `size` that make up sample `index` of the same axis at `new_size`.

    Positions are exact fractions of integers, so that no rounding moves a sample to a neighbour: sizes below
    32,768 fit. Samples past the ends are those at the ends.

    Args:
      index: int `[..., n]`.
      size: int, or an array that broadcasts against `index`.
      new_size: int, or an array that broadcasts against `index`.
      align_corners: see `resize_bilinear`.

    Returns:
      `[2, ..., n]`, numpy arrays if all arguments are numpy arrays or Python integers.
    """
    known = all(isinstance(value, (int, np.integer, np.ndarray)) for value in (index, size, new_size))
    xp: Any = np if known else jnp
    index, size, new_size = (xp.asarray(value, xp.int32) for value in (index, size, new_size))
    zeros = (1,) * (index.ndim - max(size.ndim, new_size.ndim))
    size, new_size = size.reshape(zeros + size.shape), new_size.reshape(zeros + new_size.shape)
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
    """Returns the matrix of `taps`, float32 `[..., n, extent]`, for an axis of `extent` samples."""
    place = lax.broadcasted_iota(jnp.int32, (*taps.index.shape[1:], extent), taps.index.ndim - 1)
    parts = [
        jnp.where(place == index[..., None], weight[..., None], jnp.float32(0))
        for index, weight in zip(jnp.asarray(taps.index), jnp.asarray(taps.weight), strict=True)
    ]
    return functools.reduce(jnp.add, parts)


def traced_bilinear_weights(
    size: jax.Array, new_size: jax.Array, shape: tuple[int, int], *, align_corners: bool
) -> jax.Array:
    """Computes `bilinear_weights` of sizes known only at run time, in the corner of float32 `shape`; zero outside."""
    row = jnp.arange(shape[0], dtype=jnp.int32)
    taps = bilinear_taps(row, size, new_size, align_corners=align_corners)
    return jnp.where((row < new_size)[:, None], dense(taps, shape[1]), 0.0)


def resize_bilinear(
    x: jax.Array,
    shape: tuple[int, int],
    *,
    align_corners: bool,
    input_sizes: jax.Array | None = None,
    output_sizes: jax.Array | None = None,
) -> jax.Array:
    """Resizes `x` `[B, h, w, C]` to `[B, H, W, C]` with `(H, W) = shape`, as torch's `interpolate` does.

    Two samples per axis are mixed, when reducing too (no antialiasing). It is a linear map of `x`, two matrix
    products, so that the gradient is as fast as the value on every device.

    Args:
      x: float32, bfloat16 or float16.
      shape: H and W; they and the size of `x` may be symbolic dimensions of `jax.export`.
      align_corners: whether the centres of the corner pixels coincide (the authors' code), or their edges.
      input_sizes: int32 `[B, 2]`, heights and widths of the images within `x`, which are padded at the right
        and the bottom; None is all of `x`.
      output_sizes: int32 `[B, 2]`, of the images within the result; None is all of it. Inside them the result
        is that of resizing the image without its padding, outside it is 0.

    Returns:
      `[B, H, W, C]` of the dtype of `x`; the products are accumulated in float32.

    Raises:
      InputError: `x` has the wrong dtype or shape, or a size is below 1.
    """
    check_array("x", x, "B h w C", "float")
    for name, size in enumerate(shape):
        if not is_symbolic(size):
            check_whole(f"shape[{name}]", size)
    batch, height, width, _ = x.shape
    new_height, new_width = shape
    if input_sizes is None and output_sizes is None:
        if not any(is_symbolic(n) for n in (height, width, new_height, new_width)):
            rows = jnp.asarray(bilinear_weights(height, new_height, align_corners=align_corners))
            columns = jnp.asarray(bilinear_weights(width, new_width, align_corners=align_corners))
        else:  # symbolic dimensions of `jax.export`: positions are computed when the program runs
            rows, columns = (
                traced_bilinear_weights(
                    jnp.asarray(old), jnp.asarray(new), (new, old), align_corners=align_corners
                )
                for old, new in ((height, new_height), (width, new_width))
            )
        rows = jnp.broadcast_to(rows, (batch, new_height, height))
        columns = jnp.broadcast_to(columns, (batch, new_width, width))
    else:
        if input_sizes is None:
            input_sizes = jnp.broadcast_to(jnp.array([height, width], jnp.int32), (batch, 2))
        if output_sizes is None:
            output_sizes = jnp.broadcast_to(jnp.array([new_height, new_width], jnp.int32), (batch, 2))

        def weights(axis: int, extents: tuple[int, int]) -> jax.Array:
            return jax.vmap(
                lambda size, new_size: traced_bilinear_weights(
                    size, new_size, extents, align_corners=align_corners
                )
            )(input_sizes[:, axis], output_sizes[:, axis])

        rows, columns = weights(0, (new_height, height)), weights(1, (new_width, width))

    # Columns first: the rows, the larger product, are then one matrix product per image.
    return along_rows(rows, along_columns(columns, x.astype(jnp.float32))).astype(x.dtype)


def along_columns(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies `[B, W, w]` with `[B, h, w, C]` to `[B, h, W, C]`, in float32."""
    weights = jnp.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
    # With columns innermost one matrix serves all rows; repeated for each row it would be far larger than an image.
    return jnp.swapaxes(float32_einsum("bhcw,bvw->bhcv", jnp.swapaxes(x, 2, 3), weights), 2, 3)


def along_rows(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies `[B, H, h]` with `[B, h, w, C]` to `[B, H, w, C]`, in float32."""
    batch, height, width, channels = x.shape
    weights = jnp.broadcast_to(weights, (batch, *weights.shape[1:]))
    y = float32_einsum("buh,bhn->bun", weights, x.reshape(batch, height, width * channels))
    return y.reshape(batch, weights.shape[1], width, channels)
