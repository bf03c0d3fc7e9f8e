"""Convolution as XLA has it, and its two gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import lax


class Geometry(NamedTuple):
    """How a kernel goes over an image, see `danet_jax.ops.convolution.convolution`."""

    stride: int
    padding: int
    dilation: int


def xla_convolution(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    stride, padding, dilation = geometry
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def xla_input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry) -> jax.Array:
    transposed = jax.linear_transpose(lambda x: xla_convolution(x, kernel, geometry), x)
    return transposed(dy)[0]


def xla_kernel_gradient(
    x: jax.Array, kernel: jax.Array | jax.ShapeDtypeStruct, dy: jax.Array, geometry: Geometry
) -> jax.Array:
    transposed = jax.linear_transpose(lambda kernel: xla_convolution(x, kernel, geometry), kernel)
    return transposed(dy)[0]
