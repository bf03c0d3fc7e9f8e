"""Two-dimensional convolution with torch's padding and gradients that are fast on every platform.

On TPUs and GPUs it is XLA's convolution, except for one gradient: for NVIDIA GPUs, XLA converts the kernel gradient of
a dilated convolution to a convolution whose window is the entire image, so it is computed in the phases of the dilation
instead. On CPUs, XLA's kernel gradient is much slower than its matrix products, so a convolution is computed as matrix
products where that is faster. benchmarks/model.py measures the effect on the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.errors import InputError
from danet_jax.ops.checks import check_arrays, check_whole
from danet_jax.ops.convolution.cpu import cpu_forward, cpu_input_gradient, cpu_kernel_gradient
from danet_jax.ops.convolution.phases import (
    can_be_sharded,
    kernel_gradient_in_phases,
    sharded_kernel_gradient,
)
from danet_jax.ops.convolution.xla import (
    Geometry,
    xla_convolution,
    xla_input_gradient,
    xla_kernel_gradient,
)
from danet_jax.ops.sharding import mesh_of, rows_are_sharded, with_even_rows


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Computes a convolution (that is, a cross-correlation) with torch's padding.

    It has first-order reverse-mode gradients (`jax.grad`, `jax.vjp`), but no forward-mode gradients.

    Args:
      x: features `[B, H, W, C]`, float32, bfloat16 or float16 (CPUs compute in float32).
      kernel: `[kh, kw, C, C']` of the same dtype.
      stride: the stride along both axes.
      padding: the number of zeros on every side of `x`, whatever the stride.
      dilation: the distance between adjacent entries of the kernel.
      precision: the precision of products; see `jax.lax.Precision`. None for the platform's default. CPUs ignore it.

    Returns:
      `[B, H', W', C']` of the same dtype, with `H' = floor((H + 2 * padding - dilation * (kh - 1) - 1) / stride) + 1`.

    Raises:
      InputError: shapes or dtypes do not fit each other, or the kernel is larger than the padded input.
    """
    check_arrays(x=(x, "float B H W C"), kernel=(kernel, "float kh kw C C'"))
    if x.dtype != kernel.dtype:
        raise InputError(
            f"kernel is {kernel.dtype} and x {x.dtype}; cast one of them", what="kernel", value=kernel.dtype
        )
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        check_whole(name, value, least)
    geometry = Geometry(stride, padding, dilation, precision)
    if not all(isinstance(n, int) for n in x.shape):  # Some dimensions are symbolic (`jax.export`).
        return xla_convolution(x, kernel, geometry)
    if any(x.shape[1 + i] + 2 * padding <= dilation * (kernel.shape[i] - 1) for i in range(2)):
        raise InputError(
            f"kernel {kernel.shape} with dilation={dilation} is larger than x {x.shape} with padding={padding}",
            what="kernel",
            value=kernel.shape,
        )
    return _convolution(x, kernel, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    return _by_platform(cpu_forward, xla_convolution, geometry, x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, geometry: Geometry):
    return _convolution(x, kernel, geometry), (x, kernel)


def _backward(geometry: Geometry, saved: tuple[jax.Array, jax.Array], dy: jax.Array):
    x, kernel = saved
    dx = _by_platform(cpu_input_gradient, xla_input_gradient, geometry, x, kernel, dy)
    on_cuda: Callable[..., jax.Array] | None = None
    if geometry.dilation > 1 and geometry.stride == 1:
        mesh = mesh_of(x)
        if mesh is None or not rows_are_sharded(x):
            on_cuda = kernel_gradient_in_phases
        elif can_be_sharded(x, kernel, geometry, mesh):
            on_cuda = functools.partial(sharded_kernel_gradient, mesh=mesh)
    x, dy = with_even_rows(x, dy)
    dkernel = _by_platform(cpu_kernel_gradient, xla_kernel_gradient, geometry, x, kernel, dy, cuda=on_cuda)
    return dx, dkernel


_convolution.defvjp(_forward, _backward)


def _by_platform(
    cpu: Callable[..., jax.Array],
    default: Callable[..., jax.Array],
    geometry: Geometry,
    *arrays: jax.Array,
    cuda: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Calls the function for the platform that the program is lowered for. Only this function is compiled."""
    if rows_are_sharded(arrays[0]):
        cpu = default  # XLA can exchange rows between devices in convolutions, but not in matrix products.
    in_float32 = arrays[0].dtype.itemsize < 4

    def on_cpu(*arrays: jax.Array) -> jax.Array:
        if not in_float32:
            return cpu(*arrays, geometry)
        return cpu(*(a.astype(jnp.float32) for a in arrays), geometry).astype(arrays[0].dtype)

    others = {} if cuda is None else {"cuda": lambda *arrays: cuda(*arrays, geometry)}
    return lax.platform_dependent(
        *arrays, cpu=on_cpu, default=lambda *arrays: default(*arrays, geometry), **others
    )
