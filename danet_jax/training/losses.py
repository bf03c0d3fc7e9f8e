"""The multi-loss: a cross-entropy on each of the classifiers (section 4.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from danet_jax.classes import IGNORE_LABEL
from danet_jax.models.danet import Logits
from danet_jax.ops.upsampled_cross_entropy import upsampled_cross_entropy


def valid_pixels(labels: jax.Array) -> jax.Array:
    """How many of `labels` are not ignored, float32, at least 1 so that it can divide."""
    return jnp.maximum(jnp.sum(labels != IGNORE_LABEL), 1).astype(jnp.float32)


def multi_loss(
    logits: Logits,
    labels: jax.Array,
    pixels: jax.Array,
    *,
    align_corners: bool,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    auxiliary_weight: float = 0.4,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over the network's classifiers of weight x cross-entropy / `pixels`, and each cross-entropy by name.

    Args:
      logits: `[B, h, w, K]` each, at the backbone's resolution; they are up-sampled a few rows at a time.
      labels: `[B, H, W]`, 255 is ignored.
      pixels: by what the sums over pixels are divided: the valid pixels of the global batch.
      align_corners: of the up-sampling.
      weights: of fusion, position and channel.
      auxiliary_weight: of the auxiliary head.

    Returns:
      The total, float32 `()`, and `{"loss_fusion": ..., ...}` of those classifiers that exist.
    """
    named_weights = dict(zip(("fusion", "position", "channel"), weights, strict=True))
    named_weights["auxiliary"] = auxiliary_weight
    total = jnp.zeros((), jnp.float32)
    parts = {}
    for name, branch in logits._asdict().items():
        if branch is not None:
            loss_sum, _ = upsampled_cross_entropy(
                branch, labels, align_corners=align_corners, ignore_label=IGNORE_LABEL
            )
            parts[f"loss_{name}"] = loss_sum / pixels
            total = total + named_weights[name] * parts[f"loss_{name}"]
    return total, parts
