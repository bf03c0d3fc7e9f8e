"""XLA's convolution and its two gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import lax


class Geometry(NamedTuple):
    """The parameters of a convolution; see `danet_jax.ops.convolution.convolution`."""

    stride: int
    padding: int
    dilation: int
    precision: Any = None


def xla_convolution(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    stride, padding, dilation, precision = geometry
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def xla_input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry) -> jax.Array:
    transposed = jax.linear_transpose(lambda x: xla_convolution(x, kernel, geometry), x)
    return transposed(dy)[0]


def xla_kernel_gradient(
    x: jax.Array, kernel: jax.Array | jax.ShapeDtypeStruct, dy: jax.Array, geometry: Geometry
) -> jax.Array:
    transposed = jax.linear_transpose(lambda kernel: xla_convolution(x, kernel, geometry), kernel)
    return transposed(dy)[0]
