"""The scales and flips of whole images: the way from an image to what the network sees, and from logits back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Scaling, Size, batched, scaling_of
from danet_jax.inference.shapes import Sizes
from danet_jax.ops.resize import Taps, bilinear_taps

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet


class Samples(NamedTuple):
    """One pixel of a scaled image for each of the n rows (or columns) of an image, made of a network's logits.

    Attributes:
      taps: `[t, B or 1, n]`, of the logits.
      weight: float32 `[1, B or 1, n]`, of the pixel among those that are mixed.
    """

    taps: Taps
    weight: Any


class View(NamedTuple):
    """One scale of a batch of images: the way to it, and the way back.

    Attributes:
      scaling: of the images.
      rows: of "exp" there are two pixels of the scaled image to mix, whose exponentials come first; without that
        it is all one linear map.
      columns: likewise, for each flip.
    """

    scaling: Scaling
    rows: tuple[Samples, ...]
    columns: tuple[tuple[Samples, ...], ...]


class Group(NamedTuple):
    """Images that can go through together: their padded shapes, and whether any of them is padded at all."""

    shape: Sizes
    padded: bool


def views_of(
    model: DANet, protocol: Protocol, sizes: Sequence[Size], group: Group, rows: int | None = None
) -> tuple[View, ...]:
    """The views of images of `sizes`; one size serves any number of images, unless they are padded.

    Args:
      model: the network.
      protocol: one without a window.
      sizes: of each image; symbolic dimensions of `jax.export` where nothing is padded.
      group: the shapes of images and of each scale, at least as large.
      rows: so many rows of scores are made; those past the image are of no use. None is the shape's height.
    """
    extents = (group.shape[0][0] if rows is None else rows, group.shape[0][1])

    def samples(which: int, new_sizes: Sequence[Size], mirrored: bool) -> tuple[Samples, ...]:
        known = isinstance(extents[which], int)
        index = np.arange(extents[which]) if known else jnp.arange(extents[which], dtype=jnp.int32)
        each = []
        for size, new_size in zip(sizes, new_sizes, strict=True):
            n, m = size[which], new_size[which]
            pixels = Taps(index[None], (index[None] >= 0).astype(np.float32))
            if group.padded or n != m:
                pixels = bilinear_taps(index, m, n, align_corners=bool(protocol.align_corners))
            place = m - 1 - pixels.index if mirrored else pixels.index
            low = -(-m // model.output_stride)
            index_, weight = bilinear_taps(place, low, m, align_corners=model.align_corners)  # [2, pixels, n]
            if protocol.merge == "exp":
                parts = zip(index_.swapaxes(0, 1), weight.swapaxes(0, 1), pixels.weight, strict=True)
                each.append([Samples(Taps(i, w), of_pixel[None]) for i, w, of_pixel in parts])
            else:
                linear = Taps(*(x.reshape(-1, x.shape[-1]) for x in (index_, weight * pixels.weight[None])))
                each.append([Samples(linear, linear.weight[:1])])
        return tuple(batched(of_each) for of_each in zip(*each, strict=True))

    views = []
    for scale, shape in zip(protocol.scales, group.shape[1:], strict=True):
        new_sizes = [protocol.scaled_size(scale, *size) for size in sizes] if group.padded else [shape]
        scaling = scaling_of(protocol, sizes, new_sizes, shape, padded=group.padded)
        columns = tuple(samples(1, new_sizes, flip) for flip in protocol.flips)
        views.append(View(scaling, samples(0, new_sizes, False), columns))
    return tuple(views)
