"""Images as a whole: resized, normalised, applied, resized back, argmax, in one jit-compiled function.

Nothing in it is gathered: resizing is two products with matrices, one of rows and one of columns, that take the
network's logits to the image's own size at once. A batch is divided over the axis `data` of a mesh, rows of
the images over `space`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import flipped, scaled
from danet_jax.inference.scores import Region, Sums, Wanted
from danet_jax.inference.shapes import Shapes
from danet_jax.inference.views import Group, Samples, View, views_of
from danet_jax.ops.resize import Taps, dense

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

BAND_PIXELS = {"cpu": 1 << 14, "other": 1 << 17}
"""Of the bands in which scores are made and forgotten: few enough for a CPU's cache, many for others' cores."""


Network = Callable[[Mapping[str, Any], jax.Array, Any], jax.Array]
"""From variables, normalised images and their sizes, if they are padded, to logits at the output stride."""


def network_of(model: DANet) -> Network:
    """A network's fusion."""

    def network(variables: Mapping[str, Any], x: jax.Array, sizes: Any) -> jax.Array:
        logits: Any = model.apply(variables, x, sizes=sizes, upsample=False)
        return logits.fusion

    return network


def apply(
    network: Network,
    protocol: Protocol,
    variables: Mapping[str, Any],
    images: jax.Array,
    views: Sequence[View],
    placed: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> list[list[jax.Array]]:
    """Logits at the network's output stride, float32 `[B, h, K, w]`, of each flip of each view.

    Args:
      network: see `Network`.
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
            x = jnp.concatenate([x, flipped(x, sizes)])
            sizes = None if sizes is None else jnp.concatenate([sizes, sizes])
        logits = network(variables, placed(x), sizes)
        results.append(jnp.split(jnp.swapaxes(logits, 2, 3), len(protocol.flips)))
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

    def lowered(self, variables: Any, size: tuple[int, int], wanted: Wanted) -> jax.stages.Lowered:
        """The program for images of one size, to be compiled for the mesh's devices without being run.

        Args:
          variables: shapes and dtypes of those of the network are enough.
          size: height and width.
          wanted: see `Wanted`.
        """
        group = self.group(*size)
        bands, rows = self._bands(*size)
        views = views_of(self._model, self._protocol, [size], group, rows)
        at_once = self._at_once(group)

        def array(x: Any, *spec: str) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(self._mesh, PartitionSpec(*spec))
            return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)

        images, labels = (
            array(np.broadcast_to(np.uint8(0), shape), "data")
            for shape in ((at_once, *size, 3), (at_once, rows, size[1]))
        )
        variables, views = jax.tree.map(array, (variables, views))
        return self._run.lower(variables, images, labels, views, padded=False, wanted=wanted, bands=bands)

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

        logits = apply(network_of(self._model), self._protocol, variables, images, views, placed)

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
