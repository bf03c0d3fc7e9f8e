"""From 8-bit images to what the network sees at one scale of a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.inference.protocol import Protocol
from danet_jax.models.layers import inside, masked
from danet_jax.ops.normalize import normalize
from danet_jax.ops.resize import Taps, along_columns, along_rows, bilinear_taps, dense
from danet_jax.ops.resize_8bit import opencv_taps, resize_8bit

Size = tuple[int, int]
"""Height and width; for `jax.export` they may be symbolic dimensions."""


class Scaling(NamedTuple):
    """How a batch of images of `[B, H, W, 3]` is brought to one scale, `[B, h, w, 3]`.

    Attributes:
      rows, columns: taps `[2, B or 1, h]` and `[2, B or 1, w]`; None where images stay as large as they are.
      sizes: int32 `[B, 2]`, heights and widths at this scale where images are padded; None where none is.
    """

    rows: Taps | None
    columns: Taps | None
    sizes: jax.Array | np.ndarray | None


def scaling_of(
    protocol: Protocol, sizes: Sequence[Size], new_sizes: Sequence[Size], shape: Size, *, padded: bool
) -> Scaling:
    """The scaling of images of `sizes` to `new_sizes`, in arrays of `shape`; one size serves any number of images."""
    of_each = np.asarray(new_sizes, np.int32) if padded else None
    if not padded and sizes[0] == new_sizes[0]:
        return Scaling(None, None, of_each)

    def taps(axis: int) -> Any:
        each = []
        for size, new_size in zip(sizes, new_sizes, strict=True):
            if protocol.image_resize == "uint8":
                each.append(opencv_taps(size[axis], new_size[axis], shape[axis], of_columns=axis == 1))
            else:
                known = isinstance(shape[axis], int)
                index = np.arange(shape[axis]) if known else jnp.arange(shape[axis], dtype=jnp.int32)
                align_corners = bool(protocol.align_corners)
                each.append(bilinear_taps(index, size[axis], new_size[axis], align_corners=align_corners))
        return batched(each)

    return Scaling(taps(0), taps(1), of_each)


def batched(each: Sequence[Any]) -> Any:
    """Trees of arrays `[..., n]` of several images as one tree, `[..., B, n]`."""
    return jax.tree.map(lambda *x: np.stack(x, -2) if len(x) > 1 else x[0][..., None, :], *each)


def scaled(protocol: Protocol, images: jax.Array, scaling: Scaling) -> jax.Array:
    """Normalised images at one scale, float32 `[B, h, w, 3]`, 0 outside; of images uint8 `[B, H, W, 3]`."""
    rows, columns, sizes = scaling
    if protocol.image_resize == "uint8" and rows is not None and columns is not None:
        images, rows, columns = resize_8bit(images, rows, columns), None, None
    x = normalize(images, *protocol.normalisation)
    if rows is not None and columns is not None:
        x = along_rows(dense(rows, x.shape[1]), along_columns(dense(columns, x.shape[2]), x))
    return masked(x, None if sizes is None else inside(x, jnp.asarray(sizes)))


def flipped(x: jax.Array, sizes: Any) -> jax.Array:
    """`[B, h, w, C]` mirrored, each within its own width."""
    if sizes is None:
        return x[:, :, ::-1]
    place = jnp.asarray(sizes)[None, :, 1:] - 1 - jnp.arange(x.shape[2], dtype=jnp.int32)[None, None]
    return along_columns(dense(Taps(place, jnp.ones(place.shape, jnp.float32)), x.shape[2]), x)
