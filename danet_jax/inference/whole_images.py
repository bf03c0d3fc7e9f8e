"""Scores whole images in one jit-compiled function, from uint8 pixels to labels or other reductions of the scores.

The function has no gather: resizing is two matrix products, one along rows and one along columns, which bring the
network's logits to the image's own size. A batch is sharded over the axis `data` of a mesh, the rows of the images over
`space`. Images of many sizes share a few padded shapes, so that few programs are compiled.
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
from danet_jax.inference.merging import Axis, Merging, accepts_sizes, resize_columns, resize_rows
from danet_jax.inference.predictor import Group, Part, Reduction, Region, Sizes
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Scaling, make_scaling, scale_images

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

BATCH_PIXELS = {"cpu": 1 << 17, "other": 1 << 20}
"""The number of pixels, in at most eight images, that a device processes at a time. It is large enough that work which
depends only on the weights, such as Winograd's transforms on a CPU, costs little in comparison."""

BAND_PIXELS = {"cpu": 1 << 14, "other": 1 << 17}
"""The number of pixels in a band, whose scores are computed and then dropped: few enough for a CPU's cache, and enough
for the many cores of an accelerator."""

MOST_SHAPES, MULTIPLE = 3, 32
"""The number of shapes after which new ones become rare, and the multiple in pixels that their sides are rounded to."""


def scores_of_rows(
    merging: Merging, logits: Sequence[Sequence[jax.Array]], sizes: Sequence[Any], width: Any
) -> Any:
    """Returns a function from rows of the images, int32 `[T]`, to their scores, float32 `[B, T, K, W]`.

    Args:
      merging: how logits become scores.
      logits: float32 `[B, h, K, w]` for each flip of each scale.
      sizes: int32 `[B or 1, 2]`, heights and widths of the images and then at each scale.
      width: W.
    """
    axes = [[Axis.whole(sizes[0][:, i : i + 1], size[:, i : i + 1]) for i in (0, 1)] for size in sizes[1:]]
    columns = jnp.arange(width, dtype=jnp.int32)
    # Columns are resized first, once for all rows, because logits have few rows.
    by_column = [
        [resize_columns(x, merging.resize_weights(columns, axis, x.shape[3])) for x in flips]
        for flips, (_, axis) in zip(logits, axes, strict=True)
    ]

    def scores(rows: jax.Array) -> jax.Array:
        batch, _, classes, _ = by_column[0][0][0][0].shape
        sums = merging.zeros(batch, rows.shape[0], classes, width)
        for flips, (axis, _) in zip(by_column, axes, strict=True):
            weights = merging.resize_weights(rows, axis, flips[0][0][0].shape[1])
            for view in flips:
                sums = merging.add(sums, resize_rows(view, weights))
        return merging.scores(sums)

    return scores


class Inputs(NamedTuple):
    """The arguments of the compiled function besides the variables; n is 1 if all images have one size.

    Attributes:
      images: uint8 or uint16 `[B, H, W, 3]`.
      labels: uint8 `[B, H + padding, W]`, 255 where there is none; None if the reduction needs none.
      scalings: for each scale, how images become the network's input.
      sizes: int32 `[n, 2]`, heights and widths of the images and then at each scale.
    """

    images: Any
    labels: Any
    scalings: list[Scaling]
    sizes: list[Any]


class WholeImages:
    """Applies a network to whole images; see `Predictor`.

    Args:
      model: the network.
      protocol: a protocol without a window and without open fields.
      mesh: devices of this host, with the axes `data` and `space`.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh) -> None:
        self._model, self.protocol, self.mesh = model, protocol, mesh
        self._shapes: list[Sizes] = []
        kind = "cpu" if mesh.devices.flat[0].platform == "cpu" else "other"
        self._batch_pixels, self._band_pixels = BATCH_PIXELS[kind], BAND_PIXELS[kind]
        self.program = jax.jit(self._program, static_argnames="reduction")
        """Returns the reduction of the scores for variables and `Inputs`."""

    def group(self, height: int, width: int) -> Group:
        """Returns the group of an image of this size, which gives the shapes of its arrays."""
        sizes = self._sizes(height, width)
        # A user's own backbone may not be able to ignore padding.
        shape = shared_shape(self._shapes, sizes) if accepts_sizes(self._model) else sizes
        return Group(shape, shape != sizes)

    def is_full(self, group: Group, sizes: Sequence[tuple[int, int]]) -> bool:
        """Returns whether images of these sizes keep all devices busy."""
        return len(sizes) >= self._batch_size(group)

    def run(
        self,
        variables: Mapping[str, Any],
        group: Group,
        images: Sequence[np.ndarray],
        reduction: Reduction,
        labels: Sequence[np.ndarray] = (),
        *,
        exact: bool = False,
    ) -> Iterator[Part]:
        """Scores images and yields the results; see `Predictor.run`."""
        start = 0
        while start < len(images):
            batch_size = self._batch_size(group, len(images) - start if exact else None)
            part = slice(start, start + batch_size)
            inputs = self.inputs(group, images[part], labels[part], batch_size)
            sharded = jax.device_put(
                (inputs.images, inputs.labels), NamedSharding(self.mesh, PartitionSpec("data"))
            )
            inputs = inputs._replace(images=sharded[0], labels=sharded[1])
            results = self.program(variables, inputs, reduction=reduction)
            yield Part([Region(index, 0, 0) for index in range(len(images))[part]], results)
            start += batch_size

    def inputs(
        self,
        group: Group,
        images: Sequence[np.ndarray],
        labels: Sequence[np.ndarray] = (),
        batch_size: int | None = None,
    ) -> Inputs:
        """Returns the arguments for images of a group and their labels, padded to `batch_size` images."""
        batch_size, (height, width) = batch_size or self._batch_size(group), group.shape[0]
        pixels = np.zeros((batch_size, height, width, 3), self.protocol.pixel_type)
        padded_labels = None
        if labels:
            padded_labels = np.full(
                (batch_size, math.prod(self._bands(height, width)), width), IGNORE_LABEL, np.uint8
            )
        sizes = [group.shape] * (batch_size if group.padded else 1)
        for index, image in enumerate(images):
            region = index, slice(image.shape[0]), slice(image.shape[1])
            pixels[region] = image
            if padded_labels is not None:
                padded_labels[region] = labels[index]
            if group.padded:
                sizes[index] = self._sizes(*image.shape[:2])
        by_scale = list(zip(*sizes, strict=True))
        scalings = [
            make_scaling(self.protocol, by_scale[0], scale, shape, padded=group.padded)
            for scale, shape in zip(by_scale[1:], group.shape[1:], strict=True)
        ]
        return Inputs(pixels, padded_labels, scalings, [np.asarray(scale, np.int32) for scale in by_scale])

    def _bands(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns the number of devices that share the rows, of bands per device, and of rows per band."""
        devices = self.mesh.shape["space"]
        rows = -(-height // devices)
        bands = -(-rows // max(1, self._band_pixels // width))
        return devices, bands, -(-rows // bands)

    def _sizes(self, height: int, width: int) -> Sizes:
        return (
            (height, width),
            *(self.protocol.scaled_size(s, height, width) for s in self.protocol.scales),
        )

    def _batch_size(self, group: Group, images: int | None = None) -> int:
        """Returns the batch size of a group; for a given number of images, one that needs little padding."""
        devices = self.mesh.shape["data"]
        largest = max(height * width for height, width in group.shape[1:])
        per_device = max(1, min(8, self._batch_pixels // largest))
        if images is not None:  # A power of two, so that few programs are compiled.
            per_device = min(per_device, 1 << ((-(-images // devices)).bit_length() - 1))
        return per_device * devices

    def _program(self, variables: Mapping[str, Any], inputs: Inputs, *, reduction: Reduction) -> jax.Array:
        images, labels, scalings, sizes = inputs
        batch, height, width, _ = images.shape
        devices, bands, band_rows = self._bands(height, width)
        if labels is None:  # they are created on the device, so that nothing is transferred
            labels = jnp.full((batch, devices * bands * band_rows, width), IGNORE_LABEL, jnp.uint8)
        same = all(scaling.rows is None for scaling in scalings)
        merging = Merging(self._model, self.protocol, reduction, same=same)
        by_rows = PartitionSpec("data", "space")
        logits = []
        for scaling in scalings:
            x = scale_images(self.protocol, images, scaling)
            if self.mesh.size > 1:
                x = lax.with_sharding_constraint(x, NamedSharding(self.mesh, by_rows))
            logits.append(merging.logits(variables, x, scaling.sizes, flip=self.protocol.flip))

        def on_a_device(logits: Any, sizes: Any, labels: jax.Array) -> jax.Array:
            scores = scores_of_rows(merging, logits, sizes, width)
            first = lax.axis_index("space") * bands * band_rows
            rows = first + jnp.arange(bands * band_rows, dtype=jnp.int32).reshape(bands, band_rows)
            band_labels = jnp.moveaxis(labels.reshape(-1, bands, band_rows, width), 1, 0)
            results = lax.map(lambda band: reduction.function(scores(band[0]), band[1]), (rows, band_labels))
            if reduction.summed:
                return lax.psum(results.sum(0, dtype=results.dtype), ("data", "space"))
            results = jnp.moveaxis(results, 0, 1)
            return results.reshape(len(results), bands * band_rows, *results.shape[3:])

        sizes_spec = PartitionSpec("data" if len(sizes[0]) > 1 else None)
        sharded = jax.shard_map(
            on_a_device,
            mesh=self.mesh,
            in_specs=(PartitionSpec("data"), sizes_spec, by_rows),
            out_specs=PartitionSpec() if reduction.summed else by_rows,
            check_vma=False,
        )
        return sharded(logits, list(sizes), labels)


def shared_shape(shapes: list[Sizes], sizes: Sizes) -> Sizes:
    """Returns a shape that fits an image of `sizes`; a new one, which costs a compilation, is appended to `shapes`.

    The first shape is exactly that of the first image, so images of a single size are not padded. A later image uses a
    shape of which it fills at least half of the pixels; if there is none, a new shape is added, rounded up to
    `MULTIPLE`. Once there are `MOST_SHAPES` shapes, an image uses any shape that it fits into. If there is none, a
    shape is added that is rounded up to powers of two and, from the second such shape on, to a square, so that this
    seldom happens.

    Args:
      shapes: the shapes in use.
      sizes: the size of the image itself and at each scale.
    """

    def area(sizes: Sizes) -> int:
        return sum(height * width for height, width in sizes)

    large_enough = [s for s in shapes if all(np.greater_equal(s, sizes).ravel())]
    best = min(large_enough, key=area, default=None)
    full = len(shapes) >= MOST_SHAPES
    if best is not None and (full or area(best) <= 2 * area(sizes)):
        return best
    if not shapes:
        shape = sizes
    elif not full:
        shape = tuple((-(-h // MULTIPLE) * MULTIPLE, -(-w // MULTIPLE) * MULTIPLE) for h, w in sizes)
    else:
        shape = tuple(
            (_power_of_two(max(h for h, _ in same)), _power_of_two(max(w for _, w in same)))
            for same in zip(sizes, *shapes, strict=True)
        )
        if len(shapes) > MOST_SHAPES:
            shape = tuple((max(s), max(s)) for s in shape)
    shapes.append(shape)
    return shape


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
