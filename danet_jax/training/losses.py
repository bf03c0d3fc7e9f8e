"""The multi-loss: a cross-entropy for each classifier (section 4.1), of all pixels or of hard ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from danet_jax.classes import IGNORE_LABEL
from danet_jax.errors import InputError
from danet_jax.models.danet import Logits
from danet_jax.ops.upsampled_cross_entropy import upsampled_cross_entropy, upsampled_pixel_losses


def balanced_weights(pixels: Sequence[int], power: float) -> tuple[float, ...]:
    """Returns weights of classes, `share ** -power`, which let rare classes count more; not in the paper.

    They are scaled so that a pixel counts 1 on average, as without weights, and the learning rate keeps its meaning.
    With power 1 they are, up to that scale, median frequency balancing (Eigen and Fergus, arXiv 1411.4734).

    Args:
      pixels: the number of pixels of each class; a class without any has weight 1.
      power: 0 (no weights) to 1 (all classes count the same).

    Example:
      >>> [round(weight, 3) for weight in balanced_weights([900, 100, 0], 0.5)]
      [0.833, 2.5, 1.0]
    """
    shares = np.asarray(pixels, np.float64) / max(1, sum(pixels))
    present = shares > 0
    weights = np.ones(len(shares))
    weights[present] = shares[present] ** -power / np.sum(shares[present] ** (1 - power))
    return tuple(weights.tolist())


def valid_pixels(labels: jax.Array) -> jax.Array:
    """Counts the labels that are not ignored: float32, at least 1 so that it can be a divisor."""
    return jnp.maximum(jnp.sum(labels != IGNORE_LABEL), 1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class HardPixels:
    """Online hard example mining: only pixels whose own class has a low probability enter the loss; not in the paper.

    They are chosen as by mmsegmentation's `OHEMPixelSampler` and PaddleSeg's `OhemCrossEntropyLoss`, for each
    classifier by its own scores. The loss is the mean over the chosen pixels, as in PaddleSeg.

    Attributes:
      threshold: the probability of its own class below which a pixel is hard.
      kept: the least number of pixels per image that enter; the hardest ones are taken.
    """

    threshold: float
    kept: int

    def choose(self, losses: jax.Array, valid: jax.Array) -> jax.Array:
        """Returns which pixels enter, bool, from their losses in nats and whether they are valid, `[B, H, W]` each."""
        last = jnp.minimum(self.kept * losses.shape[0], jnp.sum(valid, dtype=jnp.int32) - 1)
        losses = jnp.where(valid, jnp.maximum(losses, 0.0), -1.0)
        at_least = jnp.minimum(_descending(losses, last), -jnp.log(jnp.float32(self.threshold)))
        return losses > at_least


def _descending(values: jax.Array, place: jax.Array) -> jax.Array:
    """Returns the value at `place` (from 0) among the values of at least 0, sorted from high to low.

    It is found bit by bit from counts, which devices add up; sorting would gather all pixels on each of them.
    """
    bits = lax.bitcast_convert_type(values, jnp.int32)  # These have the order of the numbers, from 0 up.

    def body(index: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | lax.shift_left(jnp.int32(1), 30 - index)
        return jnp.where(jnp.sum(bits >= candidate, dtype=jnp.int32) > place, candidate, found)

    return lax.bitcast_convert_type(lax.fori_loop(0, 31, body, jnp.int32(0)), jnp.float32)


def multi_loss(
    logits: Logits,
    labels: jax.Array,
    pixels: jax.Array | None = None,
    *,
    align_corners: bool = True,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    auxiliary_weight: float = 0.4,
    hard_pixels: HardPixels | None = None,
    class_weights: tuple[float, ...] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums the weighted cross-entropies of the network's classifiers (section 4.1).

    The sum is `weight_fusion * CE(fusion) + weight_position * CE(position) + weight_channel * CE(channel)`, each the
    mean over the valid pixels, and likewise the auxiliary head.

    Args:
      logits: `[B, h, w, K]` each, best at the backbone's resolution (`upsample=False`): they are up-sampled to the
        labels' size a few rows at a time.
      labels: integers `[B, H, W]`; 255 is ignored.
      pixels: divisor of the sums over pixels; None for the number of valid pixels in `labels`.
      align_corners: how logits are up-sampled, as the model's `align_corners`.
      weights: weights of the fusion, position and channel losses.
      auxiliary_weight: weight of the auxiliary head's loss.
      hard_pixels: which pixels enter; None for all valid ones. With it, each cross-entropy is the mean over the chosen
        pixels, times the share of `pixels` that are in `labels`.
      class_weights: K factors for the pixels of each class; the divisor remains a number of pixels.

    Returns:
      The total loss, float32 `()`, and a dict of the unweighted losses of the classifiers, such as `loss_fusion`.

    Raises:
      InputError: there are not three weights, or an array has the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from danet_jax import Logits, multi_loss
      >>> logits = Logits(fusion=jnp.zeros((1, 4, 4, 2)))
      >>> total, parts = multi_loss(logits, jnp.zeros((1, 32, 32), jnp.uint8))
      >>> print(f"{total:.3f}", *parts)  # the logarithm of 2 classes
      0.693 loss_fusion
    """
    if len(weights) != 3:
        raise InputError(
            f"weights={weights!r} must be three: of the fusion, position and channel losses",
            what="weights",
            value=weights,
        )
    if pixels is None:
        pixels = valid_pixels(labels)
    total = jnp.zeros((), jnp.float32)
    parts = {}
    for (name, branch), weight in zip(logits._asdict().items(), (*weights, auxiliary_weight), strict=True):
        if branch is None:
            continue
        chosen, divisor = labels, pixels
        if hard_pixels is not None:
            losses = upsampled_pixel_losses(branch, labels, align_corners=align_corners)
            hard = hard_pixels.choose(losses, labels != IGNORE_LABEL)
            chosen = jnp.where(hard, labels, jnp.full_like(labels, IGNORE_LABEL))
            divisor = pixels * valid_pixels(chosen) / valid_pixels(labels)
        loss_sum, _ = upsampled_cross_entropy(
            branch, chosen, align_corners=align_corners, class_weights=class_weights
        )
        parts[f"loss_{name}"] = loss_sum / divisor
        total = total + weight * parts[f"loss_{name}"]
    return total, parts
