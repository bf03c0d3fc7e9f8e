"""The multi-loss: a cross-entropy on each of the classifiers (section 4.1), on all pixels or on hard ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from danet_jax.classes import IGNORE_LABEL
from danet_jax.models.danet import Logits
from danet_jax.ops.upsampled_cross_entropy import upsampled_cross_entropy, upsampled_pixel_losses


def balanced_weights(pixels: Sequence[int], power: float) -> tuple[float, ...]:
    """Weights of classes, `share ** -power`, that rare classes count for more.

    They are scaled so that a pixel counts 1 on average, as without weights, and the learning rate keeps its meaning.
    Of power 1 they are, up to that scale, median frequency balancing (Eigen and Fergus, arXiv 1411.4734). Not in the
    paper.

    Args:
      pixels: of each class, how many are labelled so; a class without any has weight 1.
      power: 0, all alike, to 1, all classes count the same in sum.

    >>> [round(weight, 3) for weight in balanced_weights([900, 100, 0], 0.5)]
    [0.833, 2.5, 1.0]
    """
    shares = np.asarray(pixels, np.float64) / max(1, sum(pixels))
    there = shares > 0
    weights = np.ones(len(shares))
    weights[there] = shares[there] ** -power / np.sum(shares[there] ** (1 - power))
    return tuple(weights.tolist())


def valid_pixels(labels: jax.Array) -> jax.Array:
    """How many of `labels` are not ignored, float32, at least 1 so that it can divide."""
    return jnp.maximum(jnp.sum(labels != IGNORE_LABEL), 1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class HardPixels:
    """Online hard example mining: only pixels whose own class has a low probability enter the loss.

    As mmsegmentation's `OHEMPixelSampler` and PaddleSeg's `OhemCrossEntropyLoss` choose them, for each classifier by
    its own scores; the loss is the mean over those chosen, as PaddleSeg's. Not in the paper.

    Attributes:
      threshold: the probability of its own class below which a pixel is hard.
      kept: times the number of images, the least number of pixels that enter, the hardest.
    """

    threshold: float
    kept: int

    def choose(self, losses: jax.Array, valid: jax.Array) -> jax.Array:
        """Which pixels enter, bool `[B, H, W]`: of `losses`, nats `[B, H, W]`, those that are `valid`."""
        last = jnp.minimum(self.kept * losses.shape[0], jnp.sum(valid, dtype=jnp.int32) - 1)
        losses = jnp.where(valid, jnp.maximum(losses, 0.0), -1.0)
        at_least = jnp.minimum(_descending(losses, last), -jnp.log(jnp.float32(self.threshold)))
        return losses > at_least


def _descending(values: jax.Array, place: jax.Array) -> jax.Array:
    """The value that stands at `place` (from 0) when `values` are sorted from high to low, of those not negative.

    Found bit by bit from counts, which devices add up, where sorting would gather all pixels on each of them.
    """
    bits = lax.bitcast_convert_type(values, jnp.int32)  # ordered as the numbers are, from 0 up

    def body(index: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | lax.shift_left(jnp.int32(1), 30 - index)
        return jnp.where(jnp.sum(bits >= candidate, dtype=jnp.int32) > place, candidate, found)

    return lax.bitcast_convert_type(lax.fori_loop(0, 31, body, jnp.int32(0)), jnp.float32)


def multi_loss(
    logits: Logits,
    labels: jax.Array,
    pixels: jax.Array,
    *,
    align_corners: bool,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    auxiliary_weight: float = 0.4,
    hard_pixels: HardPixels | None = None,
    class_weights: tuple[float, ...] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over the network's classifiers of weight x cross-entropy / `pixels`, and each cross-entropy by name.

    Args:
      logits: `[B, h, w, K]` each, at the backbone's resolution; they are up-sampled a few rows at a time.
      labels: `[B, H, W]`, 255 is ignored.
      pixels: by what the sums over pixels are divided: the valid pixels of the global batch.
      align_corners: of the up-sampling.
      weights: of fusion, position and channel.
      auxiliary_weight: of the auxiliary head.
      hard_pixels: which pixels enter; None is all that are valid. With it, each cross-entropy is the mean over those
        chosen, times the share of the global batch's valid pixels that `labels` hold.
      class_weights: times which a pixel of each class counts, K of them; the divisor stays a number of pixels.

    Returns:
      The total, float32 `()`, and `{"loss_fusion": ..., ...}` of those classifiers that exist.
    """
    named_weights = dict(zip(("fusion", "position", "channel"), weights, strict=True))
    named_weights["auxiliary"] = auxiliary_weight
    total = jnp.zeros((), jnp.float32)
    parts = {}
    for name, branch in logits._asdict().items():
        if branch is not None:
            chosen, divisor = labels, pixels
            if hard_pixels is not None:
                valid = labels != IGNORE_LABEL
                losses = upsampled_pixel_losses(
                    branch, labels, align_corners=align_corners, ignore_label=IGNORE_LABEL
                )
                chosen = jnp.where(
                    hard_pixels.choose(losses, valid), labels, jnp.full_like(labels, IGNORE_LABEL)
                )
                divisor = pixels * valid_pixels(chosen) / valid_pixels(labels)
            loss_sum, _ = upsampled_cross_entropy(
                branch,
                chosen,
                align_corners=align_corners,
                ignore_label=IGNORE_LABEL,
                class_weights=class_weights,
            )
            parts[f"loss_{name}"] = loss_sum / divisor
            total = total + named_weights[name] * parts[f"loss_{name}"]
    return total, parts
