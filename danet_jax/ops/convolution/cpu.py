"""Convolution on CPUs, as matrix products where these are faster than XLA's convolution.

The precision of a `Geometry` is ignored, because XLA always multiplies float32 in float32 on CPUs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.ops.convolution.winograd import (
    winograd_convolution,
    winograd_input_gradient,
    winograd_kernel_gradient,
    winograd_tiles,
)
from danet_jax.ops.convolution.xla import Geometry, xla_convolution, xla_input_gradient


def cpu_forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    if _is_pointwise(kernel.shape, geometry):
        return lax.dot_general(_subsample(x, geometry.stride), kernel[0, 0], (((3,), (0,)), ((), ())))
    if _is_winograd_faster(x.shape, kernel.shape, geometry):
        return winograd_convolution(x, kernel, geometry.padding, geometry.dilation)
    return xla_convolution(x, kernel, geometry)


def cpu_input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry) -> jax.Array:
    stride, padding, dilation, _ = geometry
    if _is_pointwise(kernel.shape, geometry):
        dx = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
        after = [n - (m - 1) * stride - 1 for n, m in zip(x.shape[1:3], dy.shape[1:3], strict=True)]
        spread = [(0, 0, 0), *((0, n, stride - 1) for n in after), (0, 0, 0)]
        return lax.pad(dx, jnp.zeros((), dx.dtype), spread)
    if _is_winograd_faster(x.shape, kernel.shape, geometry):
        # The barrier prevents XLA from keeping the forward pass's transform of the kernel, 16/9 of the kernel's size.
        kernel, dy = lax.optimization_barrier((kernel, dy))
        return winograd_input_gradient(dy, kernel, padding, dilation)
    return xla_input_gradient(x, kernel, dy, geometry)


def cpu_kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry) -> jax.Array:
    if _is_pointwise(kernel.shape, geometry):
        return _product_over_positions(_subsample(x, geometry.stride), dy)[None, None]
    if _is_winograd_faster(x.shape, kernel.shape, geometry):
        # The barrier prevents XLA from keeping the forward pass's transform of the input, four times the input's size.
        x, dy = lax.optimization_barrier((x, dy))
        return winograd_kernel_gradient(x, dy, geometry.padding, geometry.dilation)
    return _kernel_gradient_by_rows(x, kernel.shape, dy, geometry)


def _kernel_gradient_by_rows(
    x: jax.Array, kernel_shape: tuple[int, ...], dy: jax.Array, geometry: Geometry
) -> jax.Array:
    """Computes the kernel gradient as products of `dy` with the inputs that each entry of the kernel was applied to."""
    stride, padding, dilation, _ = geometry
    height, width, inputs, outputs = kernel_shape
    rows, columns = dy.shape[1:3]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # For images, positions become the last axes, because copying runs of only a few channels is slow.
    few = inputs < 16
    if few:
        x = lax.optimization_barrier(x.transpose(3, 0, 1, 2))

    def patch(i: int, j: int) -> jax.Array:
        """Returns the part of the padded input that entry (i, j) of the kernel was applied to."""
        axis = 2 if few else 1
        top, left = i * dilation, j * dilation
        part = lax.slice_in_dim(x, top, top + (rows - 1) * stride + 1, stride, axis)
        return lax.slice_in_dim(part, left, left + (columns - 1) * stride + 1, stride, axis + 1)

    def gradient(i: int) -> jax.Array:
        """Returns the gradient of row i of the kernel. All rows at once would need kh * kw times the input's memory."""
        patches = jnp.concatenate([patch(i, j) for j in range(width)], axis=0 if few else -1)
        patches = lax.optimization_barrier(patches)
        if few:
            product = patches.reshape(width * inputs, -1) @ dy.reshape(-1, outputs)
        else:
            product = _product_over_positions(patches, dy)
        return product.reshape(width, inputs, outputs)

    return jnp.stack([gradient(i) for i in range(height)])


def _product_over_positions(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns the sum over batch, rows and columns of `x` times `dy`, `[C, C']`."""
    # The arrays are reshaped to matrices, because XLA would transpose the operands of a product over three axes.
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    over_positions = (((0,), (0,)), ((), ()))
    if x.shape[1] <= dy.shape[1]:
        return lax.dot_general(x, dy, over_positions)
    # The product is up to twice as fast with the wider matrix on the right. The barrier keeps XLA from swapping them.
    return lax.optimization_barrier(lax.dot_general(dy, x, over_positions)).T


def _subsample(x: jax.Array, stride: int) -> jax.Array:
    return x if stride == 1 else x[:, ::stride, ::stride]


def _is_pointwise(kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    return kernel_shape[:2] == (1, 1) and geometry.padding == 0


def _is_winograd_faster(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Returns whether, according to measurements, the transforms cost less than the products that they save."""
    stride, padding, dilation, _ = geometry
    if kernel_shape[:2] != (3, 3) or stride != 1 or min(kernel_shape[2:]) < 128 or padding > 2 * dilation:
        return False
    batch, height, width, _ = x_shape
    tiles = winograd_tiles(height, padding, dilation) * winograd_tiles(width, padding, dilation)
    tiles *= batch * dilation**2
    positions = batch * (height + 2 * (padding - dilation)) * (width + 2 * (padding - dilation))
    # Tiles beyond the edge are wasted, and a small number of tiles does not outweigh the transform of the kernel.
    return tiles >= 64 and 16 * tiles <= 0.8 * 9 * positions
