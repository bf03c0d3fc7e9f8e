"""Normalises RGB images with the means and standard deviations that a network was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and standard deviations, RGB in the range 0 to 1, which all published backbones expect."""


def check_normalisation(mean: Any, std: Any) -> None:
    """Raises InputError unless `mean` and `std` are three numbers each, for colours in the range 0 to 1."""
    for name, values, least in (("mean", mean, 0.0), ("std", std, 1e-3)):
        try:
            numbers = np.asarray(values)
        except ValueError:  # The nested sequences have different lengths.
            numbers = np.asarray(None)
        allowed = f"three numbers from {least:g} to 1"
        if numbers.shape != (3,) or numbers.dtype.kind not in "fiu" or not np.all(numbers >= least):
            raise InputError(f"{name}={values!r} must be {allowed}", what=name, value=values, allowed=allowed)
        if not np.all(numbers <= 1):
            raise InputError(
                f"{name}={values!r} is for colours from 0 to 255, but must be {allowed}; divide it by 255",
                what=name,
                value=values,
                allowed=allowed,
            )


def normalize(
    images: jax.Array, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, bits: int = 8
) -> jax.Array:
    """Computes `(images / (2**bits - 1) - mean) / std`; the divisor is 255 for images of 8 bits.

    Args:
      images: RGB `[..., 3]`, as uint8, uint16 for more than 8 bits, or float in the range 0 to `2**bits - 1`.
      mean: means of the channels, for colours in the range 0 to 1.
      std: standard deviations of the channels, for colours in the range 0 to 1.
      bits: the bits per channel.

    Returns:
      The normalised images, float32 of the same shape.

    Raises:
      InputError: `images` have another dtype or shape, or are floats in the range 0 to 1 (which is detected only
        outside of `jit`, where values are known); or `mean` or `std` is not three numbers for colours in that range.

    Example:
      >>> import numpy as np
      >>> from danet_jax import normalize
      >>> [f"{x:.2f}" for x in normalize(np.full((1, 1, 3), 255, np.uint8))[0, 0]]
      ['2.25', '2.43', '2.64']
    """
    if not hasattr(images, "dtype") or not images.ndim or images.shape[-1] != 3 or 0 in images.shape:
        given = list(images.shape) if hasattr(images, "shape") else type(images).__name__
        raise _images_error(f"must be an array [..., 3] of RGB, not {given}", given)
    white, pixel_type = 2**bits - 1, jnp.uint8 if bits == 8 else jnp.uint16
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    if images.dtype != pixel_type and not is_float:
        kind = jnp.dtype(pixel_type).name
        raise _images_error(f"must be {kind}, or float from 0 to {white}, not {images.dtype}", images.dtype)
    if is_float and not isinstance(images, jax.core.Tracer):
        largest = np.max(np.asarray(images, np.float32))
        if 0 < largest <= 1:
            raise _images_error(
                f"are {images.dtype} with values up to {largest:.3g}, but 0 to {white} is expected; "
                f"multiply them by {white}",
                largest,
            )
    check_normalisation(mean, std)
    scale = np.float32(1) / (np.float32(white) * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    shape = (1,) * (images.ndim - 1) + (3,)
    return images.astype(jnp.float32) * scale.reshape(shape) - shift.reshape(shape)


def _images_error(problem: str, value: Any) -> InputError:
    return InputError(f"images {problem}", what="images", value=value, allowed="uint8 or uint16, or float")
