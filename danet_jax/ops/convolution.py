"""Two-dimensional convolution, as torch pads it."""

from __future__ import annotations

import jax
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> jax.Array:
    """Cross-correlation of `x` `[B, H, W, C_in]` with `kernel` `[kh, kw, C_in, C_out]`: `[B, H', W', C_out]`.

    `H' = floor((H + 2 * padding - dilation * (kh - 1) - 1) / stride) + 1`, as in torch's `conv2d`.

    Args:
      x: float32 or bfloat16 features.
      kernel: of the same dtype.
      stride: of the output, along both axes.
      padding: zeros on every side of `x`, whatever the stride.
      dilation: distance between neighbouring elements of the kernel.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
    )
