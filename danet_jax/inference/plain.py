"""Images as a whole: resized, normalised, applied, resized back, argmax, in one jit-compiled function.

Nothing in it is gathered: resizing is two products with matrices, one of rows and one of columns, that take the
network's logits to the image's own size at once. A batch is divided over the axis `data` of a mesh, rows of
the images over `space`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Scaling, Size, batched, scaled, scaling_of
from danet_jax.inference.scores import SCORES, Region, Sums, Wanted
from danet_jax.inference.shapes import Shapes, Sizes
from danet_jax.ops.resize import Taps, along_columns, bilinear_taps, dense

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

BAND_PIXELS = {"cpu": 1 << 14, "other": 1 << 17}
"""Of the bands in which scores are made and forgotten: few enough for a CPU's cache, many for others' cores."""


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


def apply(
    model: DANet,
    protocol: Protocol,
    variables: Mapping[str, Any],
    images: jax.Array,
    views: Sequence[View],
    placed: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> list[list[jax.Array]]:
    """Logits at the network's output stride, float32 `[B, h, K, w]`, of each flip of each view.

    Args:
      model: the network.
      protocol: that of `views`.
      variables: of the network.
      images: uint8 `[B, H, W, 3]`.
      views: of the images.
      placed: divides what the network sees over devices.
    """
    results = []
    for view in views:
        x, sizes = scaled(protocol, images, view.scaling), view.scaling.sizes
        if protocol.flip:
            x = jnp.concatenate([x, _flipped(x, sizes)])
            sizes = None if sizes is None else jnp.concatenate([sizes, sizes])
        logits: Any = model.apply(variables, placed(x), sizes=sizes, upsample=False)
        results.append(jnp.split(jnp.swapaxes(logits.fusion, 2, 3), len(protocol.flips)))
    return results


def merged(
    protocol: Protocol,
    ways_back: Sequence[tuple[tuple[Samples, ...], tuple[tuple[Samples, ...], ...]]],
    logits: Sequence[Sequence[jax.Array]],
    truth: jax.Array,
    wanted: Wanted,
    bands: int = 1,
) -> jax.Array:
    """What is wanted of the scores of images, `[B, ...]`, or the sum of it.

    Args:
      protocol: that of the views.
      ways_back: `rows` and `columns` of each view of the images.
      logits: of `apply`.
      truth: uint8 `[B, T, W]` of these T rows; any, where it is not asked for.
      wanted: see `Wanted`.
      bands: parts of the rows that are gone through one after another.
    """
    merge = wanted.merge(protocol)
    # Columns first, once for all bands: logits have few rows.
    wide = [
        [[_columns(s.taps, x) for s in samples] for samples, x in zip(columns, of_view, strict=True)]
        for (_, columns), of_view in zip(ways_back, logits, strict=True)
    ]

    def band(rows: Sequence[tuple[Samples, ...]], truth: jax.Array) -> jax.Array:
        sums, total = None, []
        for (_, columns), of_view, samples in zip(ways_back, wide, rows, strict=True):
            if merge != "exp":
                [row] = samples
                parts = [_rows(row.taps, x) for [x] in of_view]
                total += parts if merge == "logits" else [jax.nn.softmax(x, axis=2) for x in parts]
                continue
            # Logits of both flips are added up, and the exponentials of neighbouring pixels mixed.
            pairs = [(r, c) for r in samples for c in range(len(columns[0]))]
            parts = [_total([_rows(r.taps, of_flip[c]) for of_flip in of_view]) for r, c in pairs]
            weights = [
                jnp.asarray(r.weight)[0, :, :, None, None]
                * jnp.asarray(columns[0][c].weight)[0, :, None, None, :]
                for r, c in pairs
            ]
            sums = sums or Sums.nothing(*parts[0].shape)
            sums = sums.add_exponentials(parts, weights)
        if sums is None:
            return wanted.function(_total(total) / len(total), truth)
        return wanted.function(sums.scores if wanted.ranking else sums.in_range(), truth)

    if bands == 1:
        return band([rows for rows, _ in ways_back], truth)

    def divided(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(jnp.asarray(x).reshape(*x.shape[:-1], bands, -1), -2, 0)

    rows = jax.tree.map(divided, [rows for rows, _ in ways_back])
    results = lax.map(lambda part: band(*part), (rows, divided(truth.swapaxes(1, 2)).swapaxes(2, 3)))
    if wanted.summed:
        return results.sum(0, dtype=results.dtype)
    results = jnp.moveaxis(results, 0, 1)
    return results.reshape(results.shape[0], -1, *results.shape[3:])


def probabilities(
    protocol: Protocol, model: DANet, variables: Mapping[str, Any], images: jax.Array
) -> jax.Array:
    """Class probabilities, as they are exported, under a protocol without a window, float32 `[B, H, W, K]`.

    Args:
      protocol: scores that are none are brought to a sum of 1 in each pixel; the best class stays the best.
      model: the network.
      variables: of the network.
      images: uint8 `[B, H, W, 3]`; B, H and W may be symbolic dimensions of `jax.export`.

    Raises:
      InputError: the protocol's scales cannot be told from sizes that are open.
    """
    size = images.shape[1], images.shape[2]
    group = Group((size, *(_scaled_size(protocol, scale, size) for scale in protocol.scales)), padded=False)
    views = views_of(model, protocol, [size], group)
    logits = apply(model, protocol, variables, images, views)
    none = jnp.full((1, 1, 1), IGNORE_LABEL, jnp.uint8)
    ways_back = [(view.rows, view.columns) for view in views]
    scores = merged(protocol, ways_back, logits, none, SCORES)
    if protocol.merge == "logits":
        return jax.nn.softmax(scores, axis=-1)
    return scores / scores.sum(-1, keepdims=True) if protocol.merge == "exp" else scores


def _scaled_size(protocol: Protocol, scale: float, size: Size) -> Size:
    """`protocol.scaled_size`, of symbolic dimensions only where images stay as large as they are."""
    if all(isinstance(n, int) for n in size):
        return protocol.scaled_size(scale, *size)
    if protocol.base_size is not None or scale != 1:
        raise InputError(
            f"the protocol {protocol.name} resizes images, so their size must be known: give it after the flags, "
            "such as 512x1024"
        )
    return size


class WholeImages:
    """Applies a network to images as a whole.

    Args:
      model: the network.
      protocol: one without a window.
      mesh: on this host, axes `data` and `space`.
      shapes: that images are padded to, without a difference to the result, so that many sizes take few
        compilations.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh, shapes: Shapes) -> None:
        self._model, self._protocol, self._mesh, self._shapes = model, protocol, mesh, shapes
        self._run = jax.jit(self._compiled, static_argnames=("padded", "wanted", "bands"))

    def group(self, height: int, width: int) -> Group:
        """Which images an image of this size can go through together with."""
        sizes = (
            (height, width),
            *(self._protocol.scaled_size(s, height, width) for s in self._protocol.scales),
        )
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
    ) -> Iterator[tuple[list[Region], jax.Array]]:
        """Scores images, and yields what is wanted part by part; see `SlidingWindows.run`."""
        at_once, (height, width) = self._at_once(group), group.shape[0]
        bands, rows = self._bands(height, width)
        sharding = NamedSharding(self._mesh, PartitionSpec("data"))
        for start in range(0, len(images), at_once):
            part = range(start, min(start + at_once, len(images)))
            pixels = np.zeros((at_once, height, width, 3), np.uint8)
            labels = np.full((at_once, rows, width), IGNORE_LABEL, np.uint8)
            sizes = [(height, width)] * (at_once if group.padded else 1)
            for place, index in enumerate(part):
                size = images[index].shape[:2]
                pixels[place, : size[0], : size[1]] = images[index]
                if truths:
                    labels[place, : size[0], : size[1]] = truths[index]
                if group.padded:
                    sizes[place] = size
            views = views_of(self._model, self._protocol, sizes, group, rows)
            arrays = jax.device_put((pixels, labels), sharding)
            result = self._run(variables, *arrays, views, padded=group.padded, wanted=wanted, bands=bands)
            yield [Region(index, 0, 0) for index in part], result

    def _at_once(self, group: Group) -> int:
        on_cpu = self._mesh.devices.flat[0].platform == "cpu"
        largest = max(height * width for height, width in group.shape[1:])
        return (1 if on_cpu else max(1, min(8, (1 << 20) // largest))) * self._mesh.shape["data"]

    def _bands(self, height: int, width: int) -> tuple[int, int]:
        """How many bands each device goes through, and the rows of all bands of all devices, at least `height`."""
        devices = self._mesh.shape["space"]
        pixels = BAND_PIXELS.get(self._mesh.devices.flat[0].platform, BAND_PIXELS["other"])
        rows = -(-height // devices)
        bands = -(-rows // max(1, pixels // width))
        return bands, -(-rows // bands) * bands * devices

    def _compiled(
        self,
        variables: Mapping[str, Any],
        images: jax.Array,
        labels: jax.Array,
        views: tuple[View, ...],
        *,
        padded: bool,
        wanted: Wanted,
        bands: int,
    ) -> jax.Array:
        def placed(x: jax.Array) -> jax.Array:
            sharding = NamedSharding(self._mesh, PartitionSpec("data", "space"))
            return x if self._mesh.size == 1 else lax.with_sharding_constraint(x, sharding)

        logits = apply(self._model, self._protocol, variables, images, views, placed)

        def on_a_device(ways_back: Any, logits: Any, labels: jax.Array) -> jax.Array:
            result = merged(self._protocol, ways_back, logits, labels, wanted, bands)
            return lax.psum(result, ("data", "space")) if wanted.summed else result

        batch = "data" if padded else None
        whole, rows = PartitionSpec(None, batch), PartitionSpec(None, batch, "space")
        ways_back = [(view.rows, view.columns) for view in views]
        divided = PartitionSpec("data", "space")
        place = jax.shard_map(
            on_a_device,
            mesh=self._mesh,
            in_specs=([(rows, whole)] * len(views), PartitionSpec("data"), divided),
            out_specs=PartitionSpec() if wanted.summed else divided,
            check_vma=False,
        )
        return place(ways_back, logits, labels)


def _total(parts: Sequence[jax.Array]) -> jax.Array:
    return sum(parts[1:], parts[0])


def _flipped(x: jax.Array, sizes: Any) -> jax.Array:
    """`[B, h, w, C]` mirrored, each within its own width."""
    if sizes is None:
        return x[:, :, ::-1]
    place = jnp.asarray(sizes)[None, :, 1:] - 1 - jnp.arange(x.shape[2], dtype=jnp.int32)[None, None]
    return along_columns(dense(Taps(place, jnp.ones(place.shape, jnp.float32)), x.shape[2]), x)


def _columns(taps: Taps, x: jax.Array) -> jax.Array:
    """`[B, h, K, w]` to `[B, h, K, W]`."""
    weights = dense(taps, x.shape[3])
    weights = jnp.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
    return jnp.einsum("bhkw,bvw->bhkv", x, weights, precision=lax.Precision.HIGHEST)


def _rows(taps: Taps, x: jax.Array) -> jax.Array:
    """`[B, h, K, W]` to `[B, T, K, W]`."""
    weights = dense(taps, x.shape[1])
    weights = jnp.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
    return jnp.einsum("bth,bhkv->btkv", weights, x, precision=lax.Precision.HIGHEST)
