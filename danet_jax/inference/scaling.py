"""Turns images into the network's input at one scale of a protocol: resizes, normalises and masks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.inference.protocol import Protocol
from danet_jax.models.layers import masked, valid_mask
from danet_jax.ops.normalize import normalize
from danet_jax.ops.resize import Taps, along_columns, along_rows, bilinear_taps, dense
from danet_jax.ops.resize_8bit import opencv_taps, resize_8bit

Size = tuple[int, int]
"""Height and width; for `jax.export` they may be symbolic dimensions."""


class Scaling(NamedTuple):
    """How images, or parts of them, `[n, H, W, 3]`, become the network's input, `[n, h, w, 3]`.

    Attributes:
      rows, columns: taps `[2, n or 1, h]` and `[2, n or 1, w]`, with weight 0 where the input is black; None if images
        keep their size.
      sizes: int32 `[n, 2]`, heights and widths within h and w; None if nothing is padded.
    """

    rows: Taps | None
    columns: Taps | None
    sizes: jax.Array | np.ndarray | None


def make_scaling(
    protocol: Protocol, sizes: Sequence[Size], new_sizes: Sequence[Size], shape: Size, *, padded: bool
) -> Scaling:
    """Returns the scaling of images from `sizes` to `new_sizes` in arrays of `shape`; a single size is for all."""
    valid_sizes = np.asarray(new_sizes, np.int32) if padded else None
    if list(sizes) == list(new_sizes):
        return Scaling(None, None, valid_sizes)

    def taps(axis: int) -> Taps:
        known = isinstance(shape[axis], int)
        pixels = np.arange(shape[axis]) if known else jnp.arange(shape[axis], dtype=jnp.int32)
        each = [
            resize_taps(protocol, axis, pixels, size[axis], new_size[axis])
            for size, new_size in zip(sizes, new_sizes, strict=True)
        ]
        return Taps(*(np.stack(x, 1) if len(x) > 1 else x[0][:, None] for x in zip(*each, strict=True)))

    return Scaling(taps(0), taps(1), valid_sizes)


def resize_taps(protocol: Protocol, axis: int, pixels: Any, size: Any, new_size: Any) -> Taps:
    """Returns the taps `[2, n]` at `size` of `pixels` at `new_size`, along an image's rows (axis 0) or columns (1)."""
    if _in_8_bits(protocol):
        return opencv_taps(pixels, size, new_size, of_columns=axis == 1)
    return bilinear_taps(pixels, size, new_size, align_corners=bool(protocol.align_corners))


def _in_8_bits(protocol: Protocol) -> bool:
    return protocol.image_resize == "uint8" and protocol.depth == 8


def scale_images(protocol: Protocol, images: jax.Array, scaling: Scaling) -> jax.Array:
    """Returns the network's input, float32 `[n, h, w, 3]`, 0 past `sizes`, for images `[n, H, W, 3]`."""
    rows, columns, sizes = scaling
    x = jnp.asarray(images)
    if rows is not None and columns is not None:
        if _in_8_bits(protocol):
            x = resize_8bit(x, rows, columns)
        else:
            x = along_columns(dense(columns, x.shape[2]), x.astype(jnp.float32))
            x = along_rows(dense(rows, x.shape[1]), x)
    x = normalize(x, *protocol.normalisation, protocol.depth)
    return masked(x, valid_mask(x, sizes))


def whole_image_input(protocol: Protocol, image: np.ndarray) -> jax.Array:
    """Returns the network's input for one whole image `[H, W, 3]` at scale 1: float32 `[1, h, w, 3]`."""
    size = image.shape[0], image.shape[1]
    new_size = protocol.scaled_size(1.0, *size)
    scaling = make_scaling(protocol, [size], [new_size], new_size, padded=False)
    return jax.jit(scale_images, static_argnums=0)(protocol, image[None], scaling)


def mirror(x: jax.Array, sizes: Any) -> jax.Array:
    """Returns images `[B, h, w, C]` mirrored, each within its own width."""
    if sizes is None:
        return x[:, :, ::-1]
    source = jnp.asarray(sizes)[None, :, 1:] - 1 - jnp.arange(x.shape[2], dtype=jnp.int32)[None, None]
    return along_columns(dense(Taps(source, jnp.ones(source.shape, jnp.float32)), x.shape[2]), x)
