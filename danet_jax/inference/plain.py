"""Images as a whole, at one or more scales: one compiled function per padded shape, from pixels to the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scoring import (
    Region,
    Wanted,
    merging_of,
    on_every_device,
    stored_images,
    window_logits,
)
from danet_jax.inference.shapes import Shapes, Sizes
from danet_jax.inference.windows import merging
from danet_jax.inference.windows.cutting import Windows, as_arrays
from danet_jax.inference.windows.placement import image_flips, scaled_size, windows_of

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

BAND_PIXELS = 1 << 14
"""Of the bands of rows in which scores are merged."""


class Group(NamedTuple):
    """Images that can go through together: their padded shapes, and whether any of them is padded at all."""

    shape: Sizes
    padded: bool


class WholeImages:
    """Applies a network to images as a whole.

    Args:
      model: the network.
      protocol: one without a window.
      mesh: with the one axis `data`, on this host.
      shapes: that images are padded to; None compiles each size for itself.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh, shapes: Shapes | None = None) -> None:
        if protocol.window is not None:
            raise ValueError("a protocol without a window is needed")
        self._model, self._protocol, self._mesh, self._shapes = model, protocol, mesh, shapes
        self._flips = image_flips(protocol)
        self._run = jax.jit(self._whole, static_argnames=("group", "wanted"))

    def group(self, height: int, width: int) -> Group:
        """Which images an image of this size can go through together with."""
        scaled = (scaled_size(self._protocol, scale, height, width) for scale in self._protocol.scales)
        sizes = ((height, width), *scaled)
        shape = sizes if self._shapes is None else self._shapes.fit(sizes)
        return Group(shape, shape != sizes)

    def enough(self, group: Group, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether images of these sizes keep all devices busy."""
        return len(sizes) >= self._at_once(group)

    def run(
        self,
        variables: Mapping[str, Any],
        group: Group,
        images: Sequence[np.ndarray],
        wanted: Wanted,
        truths: Sequence[np.ndarray] = (),
    ) -> Iterator[tuple[list[Region], jax.Array]]:
        """Scores images, and yields what is wanted part by part; see `SlidingWindows.run`."""
        at_once = self._at_once(group)
        height, width = group.shape[0]
        for start in range(0, len(images), at_once):
            part = range(start, min(start + at_once, len(images)))
            labels = np.full((at_once, height, width), IGNORE_LABEL, np.uint8)
            for place, index in enumerate(part):
                if truths:
                    truth = truths[index]
                    labels[place, : truth.shape[0], : truth.shape[1]] = truth
            arrays = (*self._inputs(group, [images[index] for index in part], at_once), labels)
            arrays = jax.device_put(arrays, NamedSharding(self._mesh, PartitionSpec("data")))
            result = self._run(variables, *arrays, group=group, wanted=wanted)
            tops = range(0, height, _band_rows(group))
            yield [Region(index, top, 0) for index in part for top in tops], result

    def _at_once(self, group: Group) -> int:
        on_cpu = self._mesh.devices.flat[0].platform == "cpu"
        largest = max(height * width for height, width in group.shape[1:])
        return (1 if on_cpu else max(1, min(8, (1 << 20) // largest))) * self._mesh.size

    def _inputs(
        self, group: Group, images: Sequence[np.ndarray], at_once: int
    ) -> tuple[tuple[np.ndarray, ...], tuple[Windows, ...]]:
        """Pixels `[n, h, w, 3]` of each scale, or of all in one, and windows `[n, flips]` of each scale."""
        shared = self._protocol.image_resize == "float"
        shapes = group.shape[:1] if shared else group.shape[1:]
        pixels = tuple(np.zeros((at_once, *shape, 3), np.uint8) for shape in shapes)
        per_device = at_once // self._mesh.size
        windows: list[list[Any]] = [[None] * (at_once * len(self._flips)) for _ in self._protocol.scales]
        stored: list[list[Any]] = [[(0, 1, 1, 1)] * len(w) for w in windows]
        for index, image in enumerate(images):
            at_scales = stored_images(self._protocol, image)
            for target, array in zip(pixels, at_scales, strict=False):
                target[index, : array.shape[0], : array.shape[1]] = array
            for window in windows_of(self._protocol, *image.shape[:2]):
                place = index * len(self._flips) + int(window.flip)
                height, width = shapes[0 if shared else window.scale]
                # Each device sees the pixels of its own images only.
                offset = index % per_device * height * width
                windows[window.scale][place] = window
                stored[window.scale][place] = (offset, width, *at_scales[window.scale].shape[:2])
        shape = (at_once, len(self._flips))
        return pixels, tuple(
            jax.tree.map(lambda x: x.reshape(shape), as_arrays(*of_scale))
            for of_scale in zip(windows, stored, strict=True)
        )

    def _whole(
        self,
        variables: Mapping[str, Any],
        pixels: tuple[jax.Array, ...],
        windows: tuple[Windows, ...],
        labels: jax.Array,
        *,
        group: Group,
        wanted: Wanted,
    ) -> jax.Array:
        how = merging_of(self._model, self._protocol, wanted)
        band = _band_rows(group)

        def on_a_device(variables: Any, pixels: Any, windows: Any, labels: jax.Array) -> jax.Array:
            scales = []
            for scale, shape in enumerate(group.shape[1:]):
                flat = jax.tree.map(jnp.ravel, windows[scale])
                source = pixels[0 if len(pixels) == 1 else scale].reshape(-1, 3)
                logits = window_logits(
                    self._model, self._protocol, variables, source, flat, shape, masked=group.padded
                )
                scales.append((logits, flat))
            count, height, width = labels.shape
            tops = jnp.arange(0, height, band, dtype=jnp.int32)
            bands = jnp.pad(
                labels, ((0, 0), (0, -height % band), (0, 0)), constant_values=IGNORE_LABEL
            ).reshape(-1, band, width)
            places = jnp.repeat(jnp.arange(count, dtype=jnp.int32), len(tops)), jnp.tile(tops, count)

            def one(place: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
                image, top, truth = place
                flips = len(self._flips)
                tile = merging.Tile(
                    top=top,
                    left=jnp.int32(0),
                    slots=image * flips + jnp.arange(flips, dtype=jnp.int32),
                    last=jnp.ones(flips, bool),
                    length=jnp.int32(flips),
                )
                merged = merging.nothing_merged((band, width), self._model.num_classes, how.merge)
                for logits, of_scale in scales:
                    merged = merging.merge_windows(merged, logits, of_scale, tile, how)
                scores = merged.scores if wanted.ranking else merging.scores_of(merged, how.merge)
                return wanted.function(scores, truth)

            results = lax.map(one, (*places, bands))
            return lax.psum(results.sum(0, dtype=results.dtype), "data") if wanted.summed else results

        place = on_every_device(self._mesh, on_a_device, "-ddd", "-" if wanted.summed else "d")
        return place(variables, pixels, windows, labels)


def _band_rows(group: Group) -> int:
    height, width = group.shape[0]
    return min(height, max(1, BAND_PIXELS // width))
