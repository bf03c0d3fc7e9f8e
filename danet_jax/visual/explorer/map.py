"""The position attention map in numbers that fit a page: 16-bit queries and keys, and what each row comes to."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ENTRIES = 1 << 24
"""Of the map, at a time."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Vectors in 16 bits: `values * scales`, int16 `[N, d]` and float32 `[d]`."""

    values: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray) -> Stored:
        """Rounded, each channel by a scale of its own: logits of hundreds keep more than in float16."""
        largest = np.abs(vectors).max(0).astype(np.float64)
        scales = (np.where(largest > 0, largest, 1.0) / 32767).astype(np.float32)
        return cls(np.rint(vectors / scales.astype(np.float64)).astype(np.int16), scales)

    @property
    def vectors(self) -> np.ndarray:
        """Float32 `[N, d]`."""
        return self.values.astype(np.float32) * self.scales


def stored_map(queries: np.ndarray, keys: np.ndarray) -> tuple[Stored, Stored]:
    """Queries and keys, float32 `[N, d]`, in 16 bits.

    Keys lose their mean, which changes no row of the map, as a softmax does not see what all logits have in
    common, and makes what is rounded smaller.
    """
    centred = keys - keys.mean(0, dtype=np.float64).astype(np.float32)
    return Stored.of(queries), Stored.of(centred)


@dataclasses.dataclass(frozen=True)
class MapNumbers:
    """What the rows and columns of the map come to.

    Attributes:
      logsumexp: float32 `[N]`, of each row's logits: the weight of a place i in row j is `exp(q_j k_i - logsumexp_j)`.
      entropy: float32 `[N]`, of each row, in bits: 0 is one place, `log2 N` all alike.
      distance: float32 `[N]`, the mean distance of what each place attends to, in places.
      received: float32 `[N]`, the sum of each column: 1 on average.
      pooled: float32 `[M, M]` or None: the sum of weights over the keys of each cell, mean over the queries of each.
      cells: (rows, columns) of cells; M of them.
    """

    logsumexp: np.ndarray
    entropy: np.ndarray
    distance: np.ndarray
    received: np.ndarray
    pooled: np.ndarray | None
    cells: tuple[int, int]


def map_numbers(queries: np.ndarray, keys: np.ndarray, grid: tuple[int, int], cell: int = 1) -> MapNumbers:
    """One pass over the whole map, some rows at a time, so that memory is linear in the number of places.

    Args:
      queries: float32 `[N, d]`.
      keys: float32 `[N, d]`.
      grid: (h, w) with `h * w = N`.
      cell: the side, in places, of the cells in which weights are added up; 1 does not pool.
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
    """Means over the places of each cell, float32 `[M, ...]`, of `[N, ...]`."""
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
