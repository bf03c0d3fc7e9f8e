"""Winograd's 3x3 convolution F(2x2, 3x3) with any dilation, and its two gradients.

A 2x2 tile of the result needs 16 products per pair of channels, whereas the direct sum over the kernel needs 36 (Lavin
and Gray, arXiv 1509.09308, section 4.1). They are computed as 16 independent matrix products. Every entry of the
transforms is 0, 1, -1 or 1/2, so the result is as exact as that of a direct convolution. A dilated convolution is
computed in the same way on each of its d x d phases, which are two additional axes.

Along one axis, with input samples d, kernel g and result y:

    B^T d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
    G g   = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2)
    A^T m = (m0 + m1 + m2, m1 - m2 - m3),     y = A^T (G g * B^T d)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Vector = Sequence[jax.Array]
Grid = list[list[jax.Array]]


def winograd_tiles(extent: int, padding: int, dilation: int) -> int:
    """Returns the number of tiles (2 results in each of `dilation` phases) along an axis of size `extent`."""
    return -(-(extent + 2 * padding - 2 * dilation) // (2 * dilation))


def winograd_convolution(x: jax.Array, kernel: jax.Array, padding: int, dilation: int) -> jax.Array:
    """Computes the convolution of `x` `[B, H, W, C]` with `kernel` `[3, 3, C, C']` and stride 1."""
    return _convolve(x, _both_axes(_g, _entries(kernel)), padding, dilation, contract_kernel=0)


def winograd_input_gradient(dy: jax.Array, kernel: jax.Array, padding: int, dilation: int) -> jax.Array:
    """Computes the gradient of `x` from the output's gradient `dy`: a convolution with the rotated kernel."""
    transformed = _both_axes(_g, _entries(kernel))
    # Rotating the kernel by 180 degrees permutes its transform.
    turned = [[transformed[i][j] for j in (3, 1, 2, 0)] for i in (3, 1, 2, 0)]
    return _convolve(dy, turned, 2 * dilation - padding, dilation, contract_kernel=1)


def winograd_kernel_gradient(x: jax.Array, dy: jax.Array, padding: int, dilation: int) -> jax.Array:
    """Computes the gradient of the kernel, `[3, 3, C, C']`: G^T (sum over tiles of (B^T d)^T (A y)) for both axes."""
    batch, height, width, _ = dy.shape
    step = 2 * dilation
    rows, columns = -(-height // step), -(-width // step)
    tiles = jnp.pad(dy, ((0, 0), (0, rows * step - height), (0, columns * step - width), (0, 0)))
    tiles = tiles.reshape(batch, rows, 2, dilation, columns, 2, dilation, -1)
    results = _both_axes(_a, [[tiles[:, :, i, :, :, j] for j in range(2)] for i in range(2)])
    inputs = _transformed_input(x, padding, dilation)
    products = [
        [lax.dot_general(_flat(u), _flat(v), (((0,), (0,)), ((), ()))) for u, v in zip(*columns, strict=True)]
        for columns in zip(inputs, results, strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _both_axes(_g_transposed, products)])


def _convolve(x: jax.Array, kernel: Grid, padding: int, dilation: int, *, contract_kernel: int) -> jax.Array:
    batch, height, width, _ = x.shape
    rows, columns = (winograd_tiles(extent, padding, dilation) for extent in (height, width))
    inputs = _transformed_input(x, padding, dilation)
    products = [
        [
            lax.dot_general(_flat(u), g, (((1,), (contract_kernel,)), ((), ())))
            for u, g in zip(*pair, strict=True)
        ]
        for pair in zip(inputs, kernel, strict=True)
    ]
    tiles = [
        [y.reshape(batch, rows, dilation, columns, dilation, -1) for y in row]
        for row in _both_axes(_a_transposed, products)
    ]
    y = jnp.stack([jnp.stack(row, axis=4) for row in tiles], axis=2)
    y = y.reshape(batch, rows * 2 * dilation, columns * 2 * dilation, -1)
    return y[:, : height + 2 * padding - 2 * dilation, : width + 2 * padding - 2 * dilation]


def _transformed_input(x: jax.Array, padding: int, dilation: int) -> Grid:
    """Returns B^T d B of every tile: 4 x 4 arrays `[B, tiles, phases, tiles, phases, C]`."""
    batch, height, width, channels = x.shape
    step = 2 * dilation
    rows, columns = (winograd_tiles(extent, padding, dilation) for extent in (height, width))
    after = [step * (tiles + 1) - padding - extent for tiles, extent in ((rows, height), (columns, width))]
    x = jnp.pad(x, ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0)))
    x = x.reshape(batch, rows + 1, 2, dilation, columns + 1, 2, dilation, channels)

    def samples(i: int, j: int) -> jax.Array:
        """Returns sample (i, j) of every 4 x 4 tile. Samples 2 and 3 are samples 0 and 1 of the next tile."""
        return x[:, i // 2 : i // 2 + rows, i % 2, :, j // 2 : j // 2 + columns, j % 2]

    return _both_axes(_b_transposed, [[samples(i, j) for j in range(4)] for i in range(4)])


def _b_transposed(d: Vector) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _g(g: Vector) -> list[jax.Array]:
    even, odd = (g[0] + g[2]) * 0.5, g[1] * 0.5
    return [g[0], even + odd, even - odd, g[2]]


def _g_transposed(z: Vector) -> list[jax.Array]:
    even, odd = (z[1] + z[2]) * 0.5, (z[1] - z[2]) * 0.5
    return [z[0] + even, odd, even + z[3]]


def _a_transposed(m: Vector) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _a(y: Vector) -> list[jax.Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _both_axes(transform: Callable[[Vector], list[jax.Array]], grid: Grid) -> Grid:
    """Applies `transform` along the first axis of a grid of arrays, then along the second."""
    first = zip(*(transform(column) for column in zip(*grid, strict=True)), strict=True)
    return [transform(row) for row in first]


def _entries(kernel: jax.Array) -> Grid:
    return [[kernel[i, j] for j in range(3)] for i in range(3)]


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
