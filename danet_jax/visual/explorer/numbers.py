"""Computes the numbers on the explorer's page: a network's activations, and attention maps of a size that fits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

from danet_jax.errors import InputError
from danet_jax.inference.scaling import whole_image_input
from danet_jax.models.intermediates import (
    SCALES,
    Intermediates,
    apply_with_intermediates,
    learnt_scales,
    with_scales,
)
from danet_jax.ops.resize import bilinear_weights

if TYPE_CHECKING:
    from danet_jax.inference.segmenter import Segmenter
    from danet_jax.models.danet import DANet

MOST_ATTENDED = 8
"""The number of channels that are shown because others attend to them most."""
PER_CLASS = 8
"""The number of channels that are shown for each class."""
_LARGE = 1 << 22
"""The number of pixels of an image above which free memory is checked before the network is applied."""
_ENTRIES = 1 << 24
"""The number of entries of the position attention map that are computed at a time."""
_LARGEST_CHANNEL = 1 << 13
"""The maximum number of positions in the small image of a channel."""
_DECADES = 6
"""The orders of magnitude that the image of the channel attention map covers."""
_OFF = {
    "fusion": (),
    "without_position": ("alpha",),
    "without_channel": ("beta",),
    "without_both": ("alpha", "beta"),
}
_CHANNEL_MODULES = ("channel_in", "channel_attention", "channel_out")


@dataclasses.dataclass(frozen=True)
class Activations:
    """What a network computed for an image, at the `N = h * w` positions of its last features.

    Attributes:
      grid: (h, w), the rows and columns of positions.
      scaled: (height, width) of the network's input.
      logits: float32 `[h, w, K]` by kind: `fusion`; `position` and `channel`, from the branches' own classifiers; and
        the fusion `without_position` (alpha set to 0), `without_channel` (beta set to 0) and `without_both`. Kinds that
        the network does not have are missing.
      queries, keys: float32 `[N, d]` of the position attention; None without it.
      alpha, beta: the scales of the two attention modules; None without them.
      channel_maps: float32 `[N, C]` by module: `channel_in` is the input of the channel attention,
        `channel_attention` its output, and `channel_out` the input of the branch's classifier; empty without it.
    """

    grid: tuple[int, int]
    scaled: tuple[int, int]
    logits: Mapping[str, np.ndarray]
    queries: np.ndarray | None
    keys: np.ndarray | None
    alpha: float | None
    beta: float | None
    channel_maps: Mapping[str, np.ndarray]


def compute_activations(segmenter: Segmenter, image: np.ndarray) -> Activations:
    """Applies the network once to the whole image, at scale 1 of the segmenter's protocol.

    The backbone and the attention maps are computed once. Only what depends on alpha and beta is computed for each of
    their values.

    Args:
      segmenter: the network.
      image: uint8 `[H, W, 3]` RGB.

    Raises:
      InputError: the image needs more memory than is free.
    """
    model, params = segmenter.model, segmenter.variables["params"]
    scales = learnt_scales(params)
    alpha, beta = (float(scales[name]) if name in scales else None for name in ("alpha", "beta"))
    kinds = {kind: off for kind, off in _OFF.items() if scales.keys() >= set(off)}

    images = whole_image_input(segmenter.protocol, image)
    factors = jnp.asarray([[name not in off for name in SCALES] for off in kinds.values()], jnp.float32)
    fusions, intermediates = _run(model, segmenter.variables, images, factors)

    logits = {**dict(zip(kinds, fusions, strict=True)), **intermediates.logits._asdict()}
    maps = {name: np.asarray(x, np.float32) for name, x in intermediates.modules.items()}
    return Activations(
        grid=fusions.shape[1:3],
        scaled=(images.shape[1], images.shape[2]),
        logits={kind: np.asarray(x, np.float32) for kind, x in logits.items() if x is not None},
        queries=intermediates.queries,
        keys=intermediates.keys,
        alpha=alpha,
        beta=beta,
        channel_maps={name: x.reshape(-1, x.shape[-1]) for name, x in maps.items()},
    )


def compute_labels(
    segmenter: Segmenter, activations: Activations, kind: str, size: tuple[int, int], every: int
) -> np.ndarray:
    """Returns the labels of every `every`-th pixel, uint8 `[ceil(H / every), ceil(W / every)]`.

    Logits of one kind (see `Activations`) are resized to the image's size (H, W) as by the segmenter.
    """
    align_network, align_protocol = segmenter.model.align_corners, bool(segmenter.protocol.align_corners)

    def weights(axis: int) -> np.ndarray:
        found = bilinear_weights(
            activations.grid[axis], activations.scaled[axis], align_corners=align_network
        )
        if activations.scaled[axis] != size[axis]:
            found = (
                bilinear_weights(activations.scaled[axis], size[axis], align_corners=align_protocol) @ found
            )
        return found[::every]

    rows, columns = weights(0), weights(1)
    logits = np.swapaxes(activations.logits[kind], 1, 2) @ columns.T  # [h, K, W]
    band = max(1, (1 << 25) // logits[0].size)
    parts = [
        np.tensordot(rows[start : start + band], logits, 1).argmax(1).astype(np.uint8)
        for start in range(0, len(rows), band)
    ]
    return np.concatenate(parts)


def _run(model: DANet, variables: Any, images: jax.Array, factors: jax.Array) -> Any:
    """Returns the fused logits for each pair of factors, and the other activations."""
    height, width = images.shape[1:3]
    refusal = f"image: at {height}x{width} it needs more memory than this machine has free; make it smaller"
    program: Any = functools.partial(_apply_to_each, model=model)
    try:
        if height * width >= _LARGE and images.devices().pop().platform == "cpu":
            # A process that runs out of memory on a CPU is killed, so the compiler's estimate is checked first.
            program = _apply_to_each.lower(variables, images, factors, model=model).compile()
            analysis, free = program.memory_analysis(), psutil.virtual_memory().available
            needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0
            if needed > free:
                raise InputError(f"{refusal} ({needed / 2**30:.1f} of {free / 2**30:.1f} GiB)", what="image")
        return jax.device_get(program(variables, images, factors))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(refusal, what="image") from error


@functools.partial(jax.jit, static_argnames="model")
def _apply_to_each(variables: Any, images: jax.Array, factors: jax.Array, *, model: DANet) -> Any:
    params = variables["params"]
    scales = learnt_scales(params)

    def with_factors(factors: jax.Array) -> Intermediates:
        changed = {name: scales[name] * factors[i] for i, name in enumerate(SCALES) if name in scales}
        changed_variables = {**variables, "params": with_scales(params, changed)}
        return apply_with_intermediates(model, changed_variables, images, _CHANNEL_MODULES)

    # Under vmap, whatever does not depend on the factors has no axis for them and is computed once.
    intermediates = jax.vmap(with_factors)(factors)
    return intermediates.logits.fusion[:, 0], jax.tree.map(lambda x: x[0, 0], intermediates)


def quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors `[N, d]` rounded to int16 `[N, d]`, and the scale of each channel, float32 `[d]`.

    Logits in the hundreds keep more precision this way than in float16.
    """
    largest = np.abs(vectors).max(0).astype(np.float64)
    scales = (np.where(largest > 0, largest, 1.0) / 32767).astype(np.float32)
    return np.rint(vectors / scales.astype(np.float64)).astype(np.int16), scales


def centre(keys: np.ndarray) -> np.ndarray:
    """Returns keys `[N, d]` minus their mean, which changes no row of the map and makes rounding errors smaller."""
    return keys - keys.mean(0, dtype=np.float64).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MapNumbers:
    """Statistics of the rows and columns of the position attention map.

    Attributes:
      logsumexp: float32 `[N]`, that of each row's logits: the weight of position i in row j is
        `exp(q_j k_i - logsumexp_j)`.
      entropy: float32 `[N]`, the entropy of each row in bits: 0 for a single position, `log2 N` for a uniform row.
      distance: float32 `[N]`, the mean distance of each position to those that it attends to, in positions.
      received: float32 `[N]`, the sum of each column, which is 1 on average.
      pooled: float32 `[M, M]` for M cells: weights summed over the keys of each cell and averaged over the queries of
        each cell; None without pooling.
    """

    logsumexp: np.ndarray
    entropy: np.ndarray
    distance: np.ndarray
    received: np.ndarray
    pooled: np.ndarray | None


def compute_map_numbers(
    queries: np.ndarray, keys: np.ndarray, grid: tuple[int, int], cell: int = 1
) -> MapNumbers:
    """Computes statistics of the map a few rows at a time, so that memory is linear in the number of positions.

    Args:
      queries: float32 `[N, d]`.
      keys: float32 `[N, d]`.
      grid: (h, w) with `h * w = N`.
      cell: the side, in positions, of the cells in which weights are summed; 1 does not pool.
    """
    block = max(1, min(len(queries), _ENTRIES // len(queries)))
    return MapNumbers(*jax.device_get(_map_numbers(queries, keys, grid=grid, cell=cell, block=block)))


@functools.partial(jax.jit, static_argnames=("grid", "cell", "block"))
def _map_numbers(
    queries: jax.Array, keys: jax.Array, *, grid: tuple[int, int], cell: int, block: int
) -> tuple[jax.Array | None, ...]:
    h, w = grid
    positions, (down, across) = h * w, cells(grid, cell)
    row, column = jnp.divmod(jnp.arange(positions, dtype=jnp.int32), w)
    cell_of = row // cell * across + column // cell
    y, x = row.astype(jnp.float32), column.astype(jnp.float32)

    def step(carry: Any, start: jax.Array) -> Any:
        received, pooled = carry
        position = start + jnp.arange(block, dtype=jnp.int32)
        exists = position < positions  # the last block may extend past the last position
        position = jnp.minimum(position, positions - 1)
        logits = jnp.einsum("rd,nd->rn", queries[position], keys, precision=lax.Precision.HIGHEST)
        logsumexp = jax.nn.logsumexp(logits, axis=-1)
        weights = jnp.where(exists[:, None], jnp.exp(logits - logsumexp[:, None]), 0.0)
        entropy = jnp.maximum((logsumexp - (weights * logits).sum(-1)) / np.float32(np.log(2)), 0.0)
        distance = (weights * jnp.hypot(y[position][:, None] - y[None], x[position][:, None] - x[None])).sum(
            -1
        )
        if pooled is not None:
            missing = ((0, 0), (0, down * cell - h), (0, across * cell - w))
            split = jnp.pad(weights.reshape(block, h, w), missing).reshape(block, down, cell, across, cell)
            pooled = pooled.at[cell_of[position]].add(split.sum((2, 4)).reshape(block, -1))
        return (received + weights.sum(0), pooled), (logsumexp, entropy, distance)

    pooled = jnp.zeros((down * across,) * 2, jnp.float32) if cell > 1 else None
    starts = jnp.arange(0, positions, block, dtype=jnp.int32)
    (received, pooled), rows = lax.scan(step, (jnp.zeros(positions, jnp.float32), pooled), starts)
    if pooled is not None:
        pooled /= jnp.bincount(cell_of, length=down * across).astype(jnp.float32)[:, None]
    return *(x.reshape(-1)[:positions] for x in rows), received, pooled


def cells(grid: tuple[int, int], cell: int) -> tuple[int, int]:
    """Returns the numbers of rows and columns of cells that cover a grid of positions."""
    return -(-grid[0] // cell), -(-grid[1] // cell)


def smallest_cell(grid: tuple[int, int], most: int) -> int:
    """Returns the smallest side of cells of which at most `most` cover a grid of positions."""
    return next(cell for cell in itertools.count(1) if math.prod(cells(grid, cell)) <= most)


def average_cells(values: np.ndarray, grid: tuple[int, int], cell: int) -> np.ndarray:
    """Returns the means of `[N, ...]` over the positions of each cell, float32 `[M, ...]`."""
    if cell == 1:
        return values

    def sums(x: np.ndarray) -> np.ndarray:
        for axis, size in enumerate(grid):
            x = np.add.reduceat(x, np.arange(0, size, cell), axis)
        return x

    means = sums(values.reshape(*grid, -1).astype(np.float64)) / sums(np.ones((*grid, 1)))
    return means.reshape(-1, *values.shape[1:]).astype(np.float32)


def compute_channel_map(features: np.ndarray, energy: str) -> np.ndarray:
    """Returns the channel attention map, float32 `[C, C]`, of features `[N, C]`; see `channel_attention`."""
    gram = features.T.astype(np.float64) @ features
    logits = gram if energy == "paper" else -gram
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def compute_channel_numbers(
    segmenter: Segmenter, activations: Activations, classes: Sequence[int]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the page's facts about the channel attention, and its arrays.

    Args:
      segmenter: a network with channel attention.
      activations: the network's activations.
      classes: the classes whose channels are shown.
    """
    attention = compute_channel_map(activations.channel_maps["channel_in"], segmenter.model.channel_energy)
    received = attention.sum(0)
    attended = np.argsort(-received, kind="stable")[:MOST_ATTENDED]
    kernel = segmenter.variables["params"]["head"]["channel_classifier"]["kernel"]
    weights = np.asarray(kernel, np.float32).reshape(-1, segmenter.num_classes)
    of_class = {c: np.argsort(-weights[:, c], kind="stable")[:PER_CLASS] for c in classes}
    weighed = np.unique(np.concatenate(list(of_class.values())))

    cell = smallest_cell(activations.grid, _LARGEST_CHANNEL)
    sources = (("channel_in", attended), ("channel_attention", attended), ("channel_out", weighed))
    images = np.concatenate(
        [
            average_cells(activations.channel_maps[name][:, channels], activations.grid, cell).T
            for name, channels in sources
        ]
    )
    low, high = images.min(1), images.max(1)
    extent = np.where(high > low, high - low, 1.0)[:, None]
    decades = np.log10(np.maximum(attention, 10.0**-_DECADES)) / _DECADES + 1
    facts = {
        "count": len(received),
        "decades": _DECADES,
        "grid": cells(activations.grid, cell),
        "attended": [{"channel": int(c), "received": float(received[c])} for c in attended],
        "weighed": weighed.tolist(),
        "ofClass": {
            str(c): [{"channel": int(i), "weight": float(weights[i, c])} for i in channels]
            for c, channels in of_class.items()
        },
        "ranges": np.stack([low, high], 1).tolist(),
    }
    arrays = {
        "channelMap": np.rint(decades * 255).astype(np.uint8),
        "channelImages": np.rint((images - low[:, None]) / extent * 255).astype(np.uint8),
    }
    return facts, arrays
