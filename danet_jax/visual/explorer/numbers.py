"""The numbers behind the explorer's page: one pass of the network, then its two attention maps in a size that fits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

from danet_jax.errors import InputError
from danet_jax.inference.scaling import seen_whole
from danet_jax.models.insight import SCALES, Inside, learnt_scales, look_inside, with_scales
from danet_jax.ops.resize import bilinear_weights

if TYPE_CHECKING:
    from danet_jax.inference.segmenter import Segmenter
    from danet_jax.models.danet import DANet

MOST_ATTENDED = 8
"""Channels that are shown because others attend to them most."""
PER_CLASS = 8
"""Channels that are shown for each class."""
_LARGE = 1 << 22
"""Pixels of an image above which the free memory is checked first."""
_ENTRIES = 1 << 24
"""Entries of the position attention map that are computed at a time."""
_LARGEST_CHANNEL = 1 << 13
"""Places of the small image of a channel."""
_DECADES = 6
"""Orders of magnitude that the image of the channel attention map tells apart."""
_OFF = {
    "fusion": (),
    "without_position": ("alpha",),
    "without_channel": ("beta",),
    "without_both": ("alpha", "beta"),
}
_CHANNEL_MODULES = ("channel_in", "channel_attention", "channel_out")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a network computed for an image; places are those of its last features, `N = h * w` of them.

    Attributes:
      grid: (h, w), rows and columns of places.
      scaled: (height, width) at which the network saw the image.
      logits: float32 `[h, w, K]` by kind: `fusion`, and where the network has them `position` and `channel` (the
        branches' own classifiers), and the fusion `without_position` (alpha 0), `without_channel` (beta 0) and
        `without_both`.
      queries, keys: float32 `[N, d]` of the position attention; None without it.
      alpha, beta: the scales of the two attention modules; None without them.
      channel_maps: float32 `[N, C]` by module: `channel_in` is the input of the channel attention,
        `channel_attention` its output, and `channel_out` the input of the branch's classifier; empty without it.
      channel_weights: float32 `[C, K]`, the weights of that classifier; None without it.
    """

    grid: tuple[int, int]
    scaled: tuple[int, int]
    logits: Mapping[str, np.ndarray]
    queries: np.ndarray | None
    keys: np.ndarray | None
    alpha: float | None
    beta: float | None
    channel_maps: Mapping[str, np.ndarray]
    channel_weights: np.ndarray | None


def look(segmenter: Segmenter, image: np.ndarray) -> Seen:
    """Applies the network once to the whole image, at scale 1 of the segmenter's protocol.

    Backbone and attention are computed once; only what depends on alpha and beta is computed for each of their values.

    Args:
      segmenter: the network.
      image: uint8 `[H, W, 3]` RGB.

    Raises:
      InputError: the image needs more memory than is free.
    """
    model, variables = segmenter.model, segmenter.variables
    scales = learnt_scales(variables["params"])
    alpha, beta = (float(scales[name]) if name in scales else None for name in ("alpha", "beta"))
    kinds = {kind: off for kind, off in _OFF.items() if scales.keys() >= set(off)}

    images = seen_whole(segmenter.protocol, image)
    factors = jnp.asarray([[name not in off for name in SCALES] for off in kinds.values()], jnp.float32)
    fusions, inside = _run(model, variables, images, factors)

    logits = {name: fusions[index, 0] for index, name in enumerate(kinds)}
    branches = {"position": inside.logits.position, "channel": inside.logits.channel}
    logits |= {name: branch[0] for name, branch in branches.items() if branch is not None}
    h, w = logits["fusion"].shape[:2]
    channel_weights = None
    if beta is not None:
        kernel = np.asarray(variables["params"]["head"]["channel_classifier"]["kernel"], np.float32)
        channel_weights = kernel.reshape(-1, model.num_classes)
    return Seen(
        grid=(h, w),
        scaled=(images.shape[1], images.shape[2]),
        logits={name: np.asarray(x, np.float32) for name, x in logits.items()},
        queries=None if inside.queries is None else inside.queries[0],
        keys=None if inside.keys is None else inside.keys[0],
        alpha=alpha,
        beta=beta,
        channel_maps={
            name: np.asarray(x, np.float32).reshape(h * w, -1) for name, x in inside.modules.items()
        },
        channel_weights=channel_weights,
    )


def labels_at(segmenter: Segmenter, seen: Seen, kind: str, size: tuple[int, int], every: int) -> np.ndarray:
    """Returns the labels of every `every`-th pixel, uint8 `[ceil(H / every), ceil(W / every)]`.

    Args:
      segmenter: its protocol and up-sampling resize logits to the image's size.
      seen: the result of `look`.
      kind: which of its logits.
      size: (H, W) of the image.
      every: the step in rows and columns.
    """
    align_network, align_protocol = segmenter.model.align_corners, bool(segmenter.protocol.align_corners)

    def weights(axis: int) -> np.ndarray:
        found = bilinear_weights(seen.grid[axis], seen.scaled[axis], align_corners=align_network)
        if seen.scaled[axis] != size[axis]:
            found = bilinear_weights(seen.scaled[axis], size[axis], align_corners=align_protocol) @ found
        return found[::every]

    rows, columns = weights(0), weights(1)
    logits = np.swapaxes(seen.logits[kind], 1, 2) @ columns.T  # [h, K, W]
    band = max(1, (1 << 25) // logits[0].size)
    parts = [
        np.tensordot(rows[start : start + band], logits, 1).argmax(1).astype(np.uint8)
        for start in range(0, len(rows), band)
    ]
    return np.concatenate(parts)


def _run(model: DANet, variables: Any, images: jax.Array, factors: jax.Array) -> Any:
    """Returns the logits for each pair of factors, and what the network sowed."""
    height, width = images.shape[1:3]
    refused = (
        f"image: seen at {height}x{width} it needs more memory than this machine has free; make it smaller"
    )
    try:
        if height * width >= _LARGE:
            # On CPUs a process that runs out of memory is killed, so the compiler is asked before.
            compiled = _apply_to_each.lower(variables, images, factors, model=model).compile()
            analysis, free = compiled.memory_analysis(), psutil.virtual_memory().available
            needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0
            if images.devices().pop().platform == "cpu" and needed > free:
                raise InputError(f"{refused} ({needed / 2**30:.1f} of {free / 2**30:.1f} GiB)", what="image")
            return jax.device_get(compiled(variables, images, factors))
        return jax.device_get(_apply_to_each(variables, images, factors, model=model))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(refused, what="image") from error


@functools.partial(jax.jit, static_argnames="model")
def _apply_to_each(variables: Any, images: jax.Array, factors: jax.Array, *, model: DANet) -> Any:
    params = variables["params"]

    def with_factors(factors: jax.Array) -> Inside:
        scales = learnt_scales(params)
        changed = {name: scales[name] * factors[i] for i, name in enumerate(SCALES) if name in scales}
        # Without what the network sowed when it was made, which `init` returns too.
        all_of_it = {"params": with_scales(params, changed), "batch_stats": variables["batch_stats"]}
        return look_inside(model, all_of_it, images, _CHANNEL_MODULES)

    # What does not depend on the factors stays as it is under vmap, so it is computed once.
    inside = jax.vmap(with_factors)(factors)
    return inside.logits.fusion, jax.tree.map(lambda x: x[0], inside)


def quantised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors `[N, d]` rounded to int16 `[N, d]`, and the scale of each channel, float32 `[d]`.

    Logits of hundreds keep more precision than in float16.
    """
    largest = np.abs(vectors).max(0).astype(np.float64)
    scales = (np.where(largest > 0, largest, 1.0) / 32767).astype(np.float32)
    return np.rint(vectors / scales.astype(np.float64)).astype(np.int16), scales


def centred(keys: np.ndarray) -> np.ndarray:
    """Returns keys `[N, d]` without their mean, which changes no row of the map and makes rounding errors smaller."""
    return keys - keys.mean(0, dtype=np.float64).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MapNumbers:
    """Statistics of the rows and columns of the position attention map.

    Attributes:
      logsumexp: float32 `[N]`, of each row's logits: the weight of place i in row j is `exp(q_j k_i - logsumexp_j)`.
      entropy: float32 `[N]`, of each row, in bits: 0 for one place, `log2 N` for a uniform row.
      distance: float32 `[N]`, the mean distance of each place to those that it attends to, in places.
      received: float32 `[N]`, the sum of each column: 1 on average.
      pooled: float32 `[M, M]` or None: weights summed over the keys of each cell, the mean over the queries of each.
      cells: (rows, columns) of cells; M of them.
    """

    logsumexp: np.ndarray
    entropy: np.ndarray
    distance: np.ndarray
    received: np.ndarray
    pooled: np.ndarray | None
    cells: tuple[int, int]


def map_numbers(queries: np.ndarray, keys: np.ndarray, grid: tuple[int, int], cell: int = 1) -> MapNumbers:
    """Computes the map some rows at a time, so that memory is linear in the number of places.

    Args:
      queries: float32 `[N, d]`.
      keys: float32 `[N, d]`.
      grid: (h, w) with `h * w = N`.
      cell: the side, in places, of the cells in which weights are summed; 1 does not pool.
    """
    h, w = grid
    places = h * w
    block = max(1, min(places, _ENTRIES // places))
    count = -(-places // block)
    padded = np.zeros((count * block, queries.shape[1]), np.float32)
    padded[:places] = queries
    cells = (-(-h // cell), -(-w // cell))
    pooling = cell > 1
    result, received, pooled = _pass(
        padded.reshape(count, block, -1), np.asarray(keys, np.float32), grid, cells, cell if pooling else 0
    )
    logsumexp, entropy, distance = (np.asarray(x).reshape(-1)[:places] for x in result)
    if pooling:
        counts = _cell_sizes(grid, cell)
        pooled = np.asarray(pooled) / counts[:, None]
    return MapNumbers(
        logsumexp, entropy, distance, np.asarray(received), np.asarray(pooled) if pooling else None, cells
    )


def cell_means(values: np.ndarray, grid: tuple[int, int], cell: int) -> np.ndarray:
    """Returns the means of `[N, ...]` over the places of each cell, float32 `[M, ...]`."""
    if cell == 1:
        return values
    sums = np.zeros((len(_cell_sizes(grid, cell)), *values.shape[1:]), np.float64)
    np.add.at(sums, _cell_of(grid, cell), values)
    counts = _cell_sizes(grid, cell).reshape(-1, *[1] * (values.ndim - 1))
    return (sums / counts).astype(np.float32)


def _cell_of(grid: tuple[int, int], cell: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return rows // cell * -(-grid[1] // cell) + columns // cell


def _cell_sizes(grid: tuple[int, int], cell: int) -> np.ndarray:
    return np.bincount(_cell_of(grid, cell))


def _pass(
    blocks: np.ndarray, keys: np.ndarray, grid: tuple[int, int], cells: tuple[int, int], cell: int
) -> tuple[Any, Any, Any]:
    h, w = grid
    places, size = h * w, blocks.shape[1]

    @jax.jit
    def run(blocks: jax.Array, keys: jax.Array) -> tuple[Any, Any, Any]:
        row, column = (x.astype(jnp.float32) for x in jnp.divmod(jnp.arange(places, dtype=jnp.int32), w))

        def step(carry: Any, block: Any) -> Any:
            received, pooled = carry
            queries, start = block
            index = start + jnp.arange(size, dtype=jnp.int32)
            inside = index < places
            logits = jnp.einsum("rd,nd->rn", queries, keys, precision=lax.Precision.HIGHEST)
            logsumexp = jax.nn.logsumexp(logits, axis=-1)
            weights = jnp.where(inside[:, None], jnp.exp(logits - logsumexp[:, None]), 0.0)
            entropy = (logsumexp - (weights * logits).sum(-1)) / np.float32(np.log(2))
            mine = jnp.minimum(index, places - 1)
            far = jnp.hypot(row[mine][:, None] - row[None], column[mine][:, None] - column[None])
            received = received + weights.sum(0)
            if cell:
                lacking = ((0, 0), (0, cells[0] * cell - h), (0, cells[1] * cell - w))
                split = jnp.pad(weights.reshape(size, h, w), lacking)
                sums = split.reshape(size, cells[0], cell, cells[1], cell).sum((2, 4)).reshape(size, -1)
                home = mine // w // cell * cells[1] + mine % w // cell
                pooled = pooled.at[home].add(sums)
            return (received, pooled), (logsumexp, jnp.maximum(entropy, 0.0), (weights * far).sum(-1))

        starts = jnp.arange(blocks.shape[0], dtype=jnp.int32) * size
        area = cells[0] * cells[1] if cell else 0
        zeros = (jnp.zeros(places, jnp.float32), jnp.zeros((area, area), jnp.float32))
        (received, pooled), rows = lax.scan(step, zeros, (blocks, starts))
        return rows, received, pooled

    return jax.device_get(run(blocks, keys))


def channel_map(features: np.ndarray, energy: str) -> np.ndarray:
    """Returns the channel attention map, float32 `[C, C]`, of features `[N, C]`; see `channel_attention`."""
    gram = features.T.astype(np.float64) @ features
    logits = gram if energy == "paper" else -gram
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def channel_numbers(
    seen: Seen, energy: str, classes: Sequence[int]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the page's facts about the channel attention, and its arrays.

    Args:
      seen: from a network with channel attention.
      energy: the network's `channel_energy`.
      classes: the classes whose channels are shown.
    """
    attention = channel_map(seen.channel_maps["channel_in"], energy)
    received = attention.sum(0)
    attended = np.argsort(-received, kind="stable")[:MOST_ATTENDED]
    weights = seen.channel_weights
    assert weights is not None
    of_class = {c: np.argsort(-weights[:, c], kind="stable")[:PER_CLASS] for c in classes}
    weighed = np.unique(np.concatenate(list(of_class.values()))) if of_class else np.zeros(0, np.int64)

    cell = 1
    while -(-seen.grid[0] // cell) * -(-seen.grid[1] // cell) > _LARGEST_CHANNEL:
        cell += 1
    sources = (("channel_in", attended), ("channel_attention", attended), ("channel_out", weighed))
    pictures: list[np.ndarray] = []
    ranges: list[tuple[float, float]] = []
    for name, channels in sources:
        small = cell_means(seen.channel_maps[name][:, channels], seen.grid, cell).T
        low, high = small.min(1), small.max(1)
        extent = np.where(high > low, high - low, 1.0)[:, None]
        pictures.append(np.rint((small - low[:, None]) / extent * 255).astype(np.uint8))
        ranges.extend(zip(low.tolist(), high.tolist(), strict=True))
    decades = np.log10(np.maximum(attention, 10.0**-_DECADES)) / _DECADES + 1
    facts = {
        "count": len(received),
        "decades": _DECADES,
        "energy": energy,
        "grid": [-(-n // cell) for n in seen.grid],
        "attended": [{"channel": int(c), "received": float(received[c])} for c in attended],
        "weighed": weighed.tolist(),
        "ofClass": {
            str(c): [{"channel": int(i), "weight": float(weights[i, c])} for i in channels]
            for c, channels in of_class.items()
        },
        "ranges": ranges,
    }
    arrays = {
        "channelMap": np.rint(decades * 255).astype(np.uint8),
        "channelPictures": np.concatenate(pictures),
    }
    return facts, arrays
