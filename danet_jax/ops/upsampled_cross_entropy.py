"""Cross-entropy at full resolution of logits at the backbone's, without the full-resolution logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from danet_jax.ops.resize import resize_bilinear


def upsampled_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, align_corners: bool, ignore_label: int = 255
) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross-entropies of the up-sampled logits over the valid pixels, and the number of those.

    Args:
      logits: `[B, h, w, K]`.
      labels: integers `[B, H, W]`, 0 to K - 1 or `ignore_label`. Other values are not looked for.
      align_corners: see `danet_jax.ops.resize.resize_bilinear`.
      ignore_label: the label that does not count.

    Returns:
      The sum, float32 `()`, and the count, int32 `()`.
    """
    up = resize_bilinear(logits.astype(jnp.float32), labels.shape[1:], align_corners=align_corners)
    valid = labels != ignore_label
    safe = jnp.where(valid, labels.astype(jnp.int32), 0)
    loss = optax.softmax_cross_entropy_with_integer_labels(up, safe)
    return jnp.sum(jnp.where(valid, loss, 0.0)), jnp.sum(valid, dtype=jnp.int32)
