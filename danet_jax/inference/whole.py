"""The image as it is, at once: the network under one jit-compiled function per shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from danet_jax.models.layers import masked
from danet_jax.ops.normalize import normalize

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet


def whole_logits(
    model: DANet, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array | None = None
) -> jax.Array:
    """Logits of 8-bit images at their own size, float32 `[B, H, W, K]`.

    Args:
      model: the network.
      variables: its parameters and batch statistics.
      images: uint8 `[B, H, W, 3]` RGB.
      sizes: int32 `[B, 2]`, true heights and widths of images that were padded at the right and the bottom,
        with anything; None if none was.
    """
    logits: Any = model.apply(variables, masked(normalize(images), sizes), sizes=sizes)
    return logits.fusion
