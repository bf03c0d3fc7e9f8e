"""From 8-bit RGB to what the network was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and standard deviations, RGB in 0 to 1, as every published backbone expects."""


def normalize(images: jax.Array, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> jax.Array:
    """`(images / 255 - mean) / std`: uint8 `[..., 3]` RGB to float32 of the same shape."""
    scale = np.float32(1) / (np.float32(255) * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    shape = (1,) * (images.ndim - 1) + (3,)
    return images.astype(jnp.float32) * scale.reshape(shape) - shift.reshape(shape)
