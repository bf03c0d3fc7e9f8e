"""Two-dimensional convolution, as torch pads it, with gradients that are fast on every platform.

On TPU and GPU it is XLA's own. On CPU XLA's gradient to the kernel runs at a fraction of the speed of its
matrix products, so there a convolution is written as matrix products wherever that is faster:
benchmarks/model.py measures it in the whole network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.ops.winograd import (
    winograd_convolution,
    winograd_input_gradient,
    winograd_kernel_gradient,
    winograd_tiles,
)


class _Geometry(NamedTuple):
    stride: int
    padding: int
    dilation: int


def convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> jax.Array:
    """Cross-correlation of `x` `[B, H, W, C]` with `kernel` `[kh, kw, C, C']`: `[B, H', W', C']`.

    `H' = floor((H + 2 * padding - dilation * (kh - 1) - 1) / stride) + 1`, as of torch's `conv2d`.
    It has reverse-mode gradients of first order (`jax.grad`, `jax.vjp`), no forward-mode ones.

    Args:
      x: features, float32 or bfloat16 (the CPU computes in float32).
      kernel: of the same dtype.
      stride: of the result, along both axes.
      padding: zeros on every side of `x`, whatever the stride.
      dilation: distance between neighbouring entries of the kernel.

    Raises:
      ValueError: shapes or dtypes do not fit each other, or the kernel is larger than the padded input.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"x is [B, H, W, C] and kernel [kh, kw, C, C'], not {x.shape} and {kernel.shape}")
    if x.dtype != kernel.dtype:
        raise ValueError(f"x is {x.dtype} and kernel {kernel.dtype}; cast one of them")
    geometry = _Geometry(stride, padding, dilation)
    if stride < 1 or padding < 0 or dilation < 1:
        raise ValueError(f"{geometry} does not exist: stride and dilation are at least 1, padding at least 0")
    if not all(isinstance(n, int) for n in x.shape):  # symbolic dimensions of `jax.export`
        return _xla_convolution(x, kernel, geometry)
    if min(_output_shape(x.shape, kernel.shape, geometry)) < 1:
        raise ValueError(f"kernel {kernel.shape} with {geometry} is larger than the padded input {x.shape}")
    return _convolution(x, kernel, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    return _by_platform(_cpu_forward, _xla_convolution, geometry, x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, geometry: _Geometry):
    return _convolution(x, kernel, geometry), (x, kernel)


def _backward(geometry: _Geometry, saved: tuple[jax.Array, jax.Array], dy: jax.Array):
    x, kernel = saved
    dx = _by_platform(_cpu_input_gradient, _xla_input_gradient, geometry, x, kernel, dy)
    dkernel = _by_platform(_cpu_kernel_gradient, _xla_kernel_gradient, geometry, x, kernel, dy)
    return dx, dkernel


_convolution.defvjp(_forward, _backward)


def _by_platform(
    cpu: Callable[..., jax.Array],
    default: Callable[..., jax.Array],
    geometry: _Geometry,
    *arrays: jax.Array,
) -> jax.Array:
    """`cpu` or `default`, chosen when the platform is known: at lowering. Only the chosen one is compiled."""
    in_float32 = arrays[0].dtype.itemsize < 4

    def on_cpu(*arrays: jax.Array) -> jax.Array:
        if not in_float32:
            return cpu(*arrays, geometry)
        return cpu(*(a.astype(jnp.float32) for a in arrays), geometry).astype(arrays[0].dtype)

    return lax.platform_dependent(*arrays, cpu=on_cpu, default=lambda *arrays: default(*arrays, geometry))


# XLA's own.


def _xla_convolution(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    stride, padding, dilation = geometry
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _xla_input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: _Geometry) -> jax.Array:
    transposed = jax.linear_transpose(lambda x: _xla_convolution(x, kernel, geometry), x)
    return transposed(dy)[0]


def _xla_kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: _Geometry) -> jax.Array:
    transposed = jax.linear_transpose(lambda kernel: _xla_convolution(x, kernel, geometry), kernel)
    return transposed(dy)[0]


# The CPU's.


def _cpu_forward(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    if _is_pointwise(kernel.shape, geometry):
        return lax.dot_general(_strided(x, geometry.stride), kernel[0, 0], (((3,), (0,)), ((), ())))
    if _is_winograd_faster(x.shape, kernel.shape, geometry):
        return winograd_convolution(x, kernel, geometry.padding, geometry.dilation)
    return _xla_convolution(x, kernel, geometry)


def _cpu_input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: _Geometry) -> jax.Array:
    stride, padding, dilation = geometry
    if _is_pointwise(kernel.shape, geometry):
        dx = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
        after = [n - (m - 1) * stride - 1 for n, m in zip(x.shape[1:3], dy.shape[1:3], strict=True)]
        spread = [(0, 0, 0), *((0, n, stride - 1) for n in after), (0, 0, 0)]
        return lax.pad(dx, jnp.zeros((), dx.dtype), spread)
    if _is_winograd_faster(x.shape, kernel.shape, geometry):
        # Behind the barrier XLA does not keep the forward pass's transform of the kernel, 16/9 of its size.
        kernel, dy = lax.optimization_barrier((kernel, dy))
        return winograd_input_gradient(dy, kernel, padding, dilation)
    return _xla_input_gradient(x, kernel, dy, geometry)


def _cpu_kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: _Geometry) -> jax.Array:
    if _is_pointwise(kernel.shape, geometry):
        return _product_over_places(_strided(x, geometry.stride), dy)[None, None]
    if _is_winograd_faster(x.shape, kernel.shape, geometry):
        # Nor the forward pass's transform of the input, four times its size.
        x, dy = lax.optimization_barrier((x, dy))
        return winograd_kernel_gradient(x, dy, geometry.padding, geometry.dilation)
    return _kernel_gradient_by_places(x, kernel.shape, dy, geometry)


def _kernel_gradient_by_places(
    x: jax.Array, kernel_shape: tuple[int, ...], dy: jax.Array, geometry: _Geometry
) -> jax.Array:
    """Matrix products of `dy` with what each entry of the kernel met at each place of the result."""
    stride, padding, dilation = geometry
    height, width, inputs, outputs = kernel_shape
    rows, columns = dy.shape[1:3]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Of colour images the places go last, as runs of so few channels would be slow to copy.
    few = inputs < 16
    if few:
        x = lax.optimization_barrier(x.transpose(3, 0, 1, 2))

    def met(i: int, j: int) -> jax.Array:
        """The part of the padded input that entry (i, j) of the kernel met."""
        axis = 2 if few else 1
        top, left = i * dilation, j * dilation
        part = lax.slice_in_dim(x, top, top + (rows - 1) * stride + 1, stride, axis)
        return lax.slice_in_dim(part, left, left + (columns - 1) * stride + 1, stride, axis + 1)

    def gradient(i: int) -> jax.Array:
        """To row i of the kernel: one row at a time, so as not to hold kh * kw times the input in memory."""
        patches = jnp.concatenate([met(i, j) for j in range(width)], axis=0 if few else -1)
        patches = lax.optimization_barrier(patches)
        if few:
            product = patches.reshape(width * inputs, -1) @ dy.reshape(-1, outputs)
        else:
            product = _product_over_places(patches, dy)
        return product.reshape(width, inputs, outputs)

    return jnp.stack([gradient(i) for i in range(height)])


def _product_over_places(x: jax.Array, dy: jax.Array) -> jax.Array:
    """`[C, C']`: the sum over batch, rows and columns of `x` times `dy`."""
    # As matrices: of a product that sums over three axes XLA transposes the operands in memory.
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    places = (((0,), (0,)), ((), ()))
    if x.shape[1] <= dy.shape[1]:
        return lax.dot_general(x, dy, places)
    # Up to twice as fast with the wider matrix on the right; without the barrier XLA turns it round again.
    return lax.optimization_barrier(lax.dot_general(dy, x, places)).T


def _strided(x: jax.Array, stride: int) -> jax.Array:
    return x if stride == 1 else x[:, ::stride, ::stride]


def _is_pointwise(kernel_shape: tuple[int, ...], geometry: _Geometry) -> bool:
    return kernel_shape[:2] == (1, 1) and geometry.padding == 0


def _is_winograd_faster(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], geometry: _Geometry) -> bool:
    """Whether the transforms cost less than the products that they save, as measured."""
    stride, padding, dilation = geometry
    if kernel_shape[:2] != (3, 3) or stride != 1 or min(kernel_shape[2:]) < 128:
        return False
    if padding > 2 * dilation:
        return False
    batch, height, width, _ = x_shape
    tiles = winograd_tiles(height, padding, dilation) * winograd_tiles(width, padding, dilation)
    tiles *= batch * dilation**2
    places = batch * (height + 2 * (padding - dilation)) * (width + 2 * (padding - dilation))
    # Tiles that hang over the edge are computed in vain; and few tiles do not repay the kernel's transform.
    return tiles >= 64 and 16 * tiles <= 0.8 * 9 * places


def _output_shape(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], geometry: _Geometry
) -> tuple[int, int]:
    stride, padding, dilation = geometry
    rows, columns = (
        (x_shape[axis] + 2 * padding - dilation * (kernel_shape[axis - 1] - 1) - 1) // stride + 1
        for axis in (1, 2)
    )
    return rows, columns
