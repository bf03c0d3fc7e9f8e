"""Images as a whole: resized, normalised, applied, resized back, argmax, in one jit-compiled function.

Nothing in it is gathered: resizing is two products with matrices, one of rows and one of columns, that take the
network's logits to the image's own size at once. A batch is divided over the axis `data` of a mesh, rows of
the images over `space`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.inference.merging import Axis, Merging, across, brought
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Scaling, scaled, scaling_of
from danet_jax.inference.scores import Region, Wanted
from danet_jax.inference.shapes import Shapes, Sizes

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

PIXELS_AT_ONCE = {"cpu": 1 << 17, "other": 1 << 20}
"""Of the images, at most eight, that a device takes at a time: so many that what depends on the weights alone, such as
Winograd's transforms on a CPU, is little beside them."""

BAND_PIXELS = {"cpu": 1 << 14, "other": 1 << 17}
"""Of the bands in which scores are made and forgotten: few enough for a CPU's cache, many for others' cores."""


def scores_of_rows(
    how: Merging, logits: Sequence[Sequence[jax.Array]], sizes: Sequence[Any], width: Any
) -> Any:
    """A function from rows of images, int32 `[T]`, to their scores, float32 `[B, T, K, W]`.

    Args:
      how: see `Merging`.
      logits: float32 `[B, h, K, w]`, of each flip at each scale.
      sizes: int32 `[B or 1, 2]`, of the images, then at each scale.
      width: W.
    """
    axes = [[Axis.whole(sizes[0][:, i : i + 1], size[:, i : i + 1]) for i in (0, 1)] for size in sizes[1:]]
    columns = jnp.arange(width, dtype=jnp.int32)
    # Columns first, once for all rows: logits have few of these.
    wide = [
        [across(x, how.ways(columns, axis, x.shape[3])) for x in flips]
        for flips, (_, axis) in zip(logits, axes, strict=True)
    ]

    def scores(rows: jax.Array) -> jax.Array:
        batch, _, classes, _ = wide[0][0][0][0].shape
        sums = how.nothing(batch, rows.shape[0], classes, width)
        for flips, (axis, _) in zip(wide, axes, strict=True):
            ways = how.ways(rows, axis, flips[0][0][0].shape[1])
            for view in flips:
                sums = how.add(sums, brought(view, ways))
        return how.scores(sums)

    return scores


class Group(NamedTuple):
    """Images that go through together: shapes of them and of each scale, and whether any is padded."""

    shape: Sizes
    padded: bool


class WholeImages:
    """Applies a network to images as a whole.

    Args:
      model: the network.
      protocol: one without a window.
      mesh: on this host, axes `data` and `space`.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh) -> None:
        self._model, self.protocol, self.mesh, self._shapes = model, protocol, mesh, Shapes()
        kind = "cpu" if mesh.devices.flat[0].platform == "cpu" else "other"
        self._pixels_at_once, self._band_pixels = PIXELS_AT_ONCE[kind], BAND_PIXELS[kind]
        self.program = jax.jit(self._program, static_argnames="wanted")
        """From variables and `arguments` to what is wanted."""

    def group(self, height: int, width: int) -> Group:
        """Which images an image of this size can go through together with."""
        sizes = self._sizes(height, width)
        shape = self._shapes.fit(sizes)
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
        *,
        exact: bool = False,
    ) -> Iterator[tuple[list[Region], jax.Array]]:
        """Scores images, and yields what is wanted part by part.

        Args:
          variables: of the network, on every device of the mesh.
          group: of the images.
          images: uint8 `[H, W, 3]`.
          wanted: see `Wanted`.
          truths: uint8 `[H, W]` of each image, where `wanted` asks for it.
          exact: whether no more is computed than these images, at the price of other programs for fewer at a time;
            otherwise batches are filled up.

        Yields:
          Where results belong, and the results on the device, `[n, ...]` with n at least as many; or their sum.
        """
        start = 0
        while start < len(images):
            at_once = self._at_once(group, len(images) - start if exact else None)
            part = slice(start, start + at_once)
            arrays = self.arguments(group, images[part], truths[part], at_once)
            arrays[:2] = jax.device_put(arrays[:2], NamedSharding(self.mesh, PartitionSpec("data")))
            result = self.program(variables, *arrays, wanted=wanted)
            yield [Region(index, 0, 0) for index in range(len(images))[part]], result
            start += at_once

    def arguments(
        self,
        group: Group,
        images: Sequence[np.ndarray],
        truths: Sequence[np.ndarray] = (),
        at_once: int | None = None,
    ) -> list[Any]:
        """The program's arrays, for images of a group and their truths."""
        at_once, (height, width) = at_once or self._at_once(group), group.shape[0]
        pixels = np.zeros((at_once, height, width, 3), np.uint8)
        labels = None
        if truths:
            labels = np.full((at_once, math.prod(self._bands(height, width)), width), IGNORE_LABEL, np.uint8)
        sizes = [group.shape] * (at_once if group.padded else 1)
        for place, image in enumerate(images):
            here = place, slice(image.shape[0]), slice(image.shape[1])
            pixels[here] = image
            if labels is not None:
                labels[here] = truths[place]
            if group.padded:
                sizes[place] = self._sizes(*image.shape[:2])
        scales = list(zip(*sizes, strict=True))
        scalings = [
            scaling_of(self.protocol, scales[0], scale, shape, padded=group.padded)
            for scale, shape in zip(scales[1:], group.shape[1:], strict=True)
        ]
        return [pixels, labels, scalings, [np.asarray(scale, np.int32) for scale in scales]]

    def _bands(self, height: int, width: int) -> tuple[int, int, int]:
        """Devices that rows are divided over, bands that each goes through its own in, and rows of a band."""
        devices = self.mesh.shape["space"]
        of_device = -(-height // devices)
        bands = -(-of_device // max(1, self._band_pixels // width))
        return devices, bands, -(-of_device // bands)

    def _sizes(self, height: int, width: int) -> Sizes:
        return (
            (height, width),
            *(self.protocol.scaled_size(s, height, width) for s in self.protocol.scales),
        )

    def _at_once(self, group: Group, images: int | None = None) -> int:
        """How many images of a group go through at a time, at most; of so many, the program's that computes no more."""
        devices = self.mesh.shape["data"]
        largest = max(height * width for height, width in group.shape[1:])
        of_device = max(1, min(8, self._pixels_at_once // largest))
        if images is not None:  # by powers of two, so that numbers of images make few programs
            of_device = min(of_device, 1 << ((-(-images // devices)).bit_length() - 1))
        return of_device * devices

    def _program(
        self,
        variables: Mapping[str, Any],
        images: jax.Array,
        labels: jax.Array | None,
        scalings: Sequence[Scaling],
        sizes: Sequence[jax.Array],
        *,
        wanted: Wanted,
    ) -> jax.Array:
        batch, height, width, _ = images.shape
        devices, bands, of_band = self._bands(height, width)
        if labels is None:  # then there are none to bring to the device
            labels = jnp.full((batch, devices * bands * of_band, width), IGNORE_LABEL, jnp.uint8)
        how = Merging(
            self._model, self.protocol, wanted, same=all(scaling.rows is None for scaling in scalings)
        )
        divided = PartitionSpec("data", "space")
        logits = []
        for scaling in scalings:
            x = scaled(self.protocol, images, scaling)
            if self.mesh.size > 1:
                x = lax.with_sharding_constraint(x, NamedSharding(self.mesh, divided))
            logits.append(how.logits(variables, x, scaling.sizes, flip=self.protocol.flip))

        def on_a_device(logits: Any, sizes: Any, labels: jax.Array) -> jax.Array:
            scores = scores_of_rows(how, logits, sizes, width)
            first = lax.axis_index("space") * bands * of_band
            rows = first + jnp.arange(bands * of_band, dtype=jnp.int32).reshape(bands, of_band)
            truths = jnp.moveaxis(labels.reshape(-1, bands, of_band, width), 1, 0)
            results = lax.map(lambda band: wanted.function(scores(band[0]), band[1]), (rows, truths))
            if wanted.summed:
                return lax.psum(results.sum(0, dtype=results.dtype), ("data", "space"))
            results = jnp.moveaxis(results, 0, 1)
            return results.reshape(len(results), bands * of_band, *results.shape[3:])

        of_each = PartitionSpec("data" if len(sizes[0]) > 1 else None)
        place = jax.shard_map(
            on_a_device,
            mesh=self.mesh,
            in_specs=(PartitionSpec("data"), of_each, divided),
            out_specs=PartitionSpec() if wanted.summed else divided,
            check_vma=False,
        )
        return place(logits, list(sizes), labels)
