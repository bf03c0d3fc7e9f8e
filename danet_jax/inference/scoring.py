"""From windows of images to their logits, at the backbone's resolution: what sliding and whole images share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scores import Wanted
from danet_jax.inference.windows.cutting import Windows, cut
from danet_jax.inference.windows.merging import Merging
from danet_jax.inference.windows.placement import image_flips, scaled_size

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet


def merging_of(model: DANet, protocol: Protocol, wanted: Wanted) -> Merging:
    """How the windows of a network are merged under a protocol."""
    views = len(protocol.scales) * len(image_flips(protocol))
    return Merging(
        wanted.merge(protocol), bool(protocol.align_corners), model.align_corners, model.output_stride, views
    )


def window_logits(
    model: DANet,
    protocol: Protocol,
    variables: Mapping[str, Any],
    pixels: jax.Array,
    windows: Windows,
    shape: tuple[int, int],
    *,
    masked: bool,
) -> jax.Array:
    """Logits of windows, float32 `[n, h', K, w']`, at the network's output stride.

    With "exp" and flip, the sum of those of the window and of its flip, un-flipped: up-sampling is linear
    and the same from both sides.

    Args:
      model: the network.
      protocol: under which it is applied.
      variables: of the network.
      pixels: uint8 `[P, 3]`, see `cutting.cut`.
      windows: `[n]`.
      shape: (height, width) of the windows.
      masked: whether some windows are smaller than `shape`, which their own size says.
    """
    align_corners, (mean, std) = bool(protocol.align_corners), protocol.normalisation
    images = lax.map(
        lambda window: cut(pixels, window, shape, align_corners=align_corners, mean=mean, std=std), windows
    )
    sizes = jnp.stack([windows.rows.window, windows.columns.window], -1) if masked else None

    def logits_of(images: jax.Array, sizes: jax.Array | None) -> jax.Array:
        logits: Any = model.apply(variables, images, sizes=sizes, upsample=False)
        return logits.fusion

    if not (protocol.flip and protocol.merge == "exp"):
        return jnp.swapaxes(logits_of(images, sizes), 2, 3)
    both = jnp.concatenate([images, _flipped(images, sizes)])
    upright, flipped = jnp.split(logits_of(both, None if sizes is None else jnp.tile(sizes, (2, 1))), 2)
    low_sizes = None if sizes is None else _at_stride(sizes, model.output_stride)
    return jnp.swapaxes(upright + _flipped(flipped, low_sizes), 2, 3)


def stored_images(protocol: Protocol, image: np.ndarray) -> list[np.ndarray]:
    """The image as windows are cut from it, uint8 `[h, w, 3]` for each scale.

    One and the same array for all scales where the device resizes ("float"), else resized by OpenCV.
    """
    if protocol.image_resize == "float":
        return [image] * len(protocol.scales)
    images = []
    for scale in protocol.scales:
        height, width = scaled_size(protocol, scale, *image.shape[:2])
        if (height, width) == image.shape[:2]:
            images.append(image)
        else:
            import cv2

            images.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    return images


def on_every_device(mesh: Mesh, function: Any, inputs: str, output: str) -> Any:
    """`function` on each device of `mesh`; an input marked `d` is split over them, one marked `-` is on all."""
    spec = {"d": PartitionSpec("data"), "-": PartitionSpec()}
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(spec[mark] for mark in inputs),
        out_specs=spec[output],
        check_vma=False,
    )


def _at_stride(sizes: jax.Array, output_stride: int) -> jax.Array:
    for _ in range(output_stride.bit_length() - 1):
        sizes = (sizes + 1) // 2
    return sizes


def _flipped(x: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """`[n, h, w, C]` mirrored, each within its own width."""
    if sizes is None:
        return x[:, :, ::-1]
    place = sizes[:, 1:] - 1 - jnp.arange(x.shape[2], dtype=jnp.int32)[None, :]
    mirrored = jnp.take_along_axis(x, jnp.maximum(place, 0)[:, None, :, None], axis=2)
    return jnp.where((place >= 0)[:, None, :, None], mirrored, 0.0)
