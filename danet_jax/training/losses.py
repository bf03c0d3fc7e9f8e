"""The multi-loss: a cross-entropy for each classifier (section 4.1), over all pixels or only over hard ones."""

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
    """Returns class weights `share ** -power`, which increase the influence of rare classes; not in the paper.

    They are scaled so that the average weight of a pixel is 1, as without weights, and the learning rate needs no
    change. With a power of 1 they are, up to this scale, median frequency balancing (Eigen and Fergus, arXiv
    1411.4734).

    Args:
      pixels: the number of pixels of each class. A class without pixels has weight 1.
      power: 0 (no weights) to 1 (all classes have the same influence).

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
    """Returns the number of labels that are not ignored as float32; at least 1, so that it can be a divisor."""
    return jnp.maximum(jnp.sum(labels != IGNORE_LABEL), 1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class HardPixels:
    """Online hard example mining: restricts the loss to pixels whose class has a low probability; not in the paper.

    Pixels are selected as by mmsegmentation's `OHEMPixelSampler` and PaddleSeg's `OhemCrossEntropyLoss`, separately for
    each classifier by its own scores. The loss is the mean over the selected pixels, as in PaddleSeg.

    Attributes:
      threshold: a pixel is hard if the probability of its class is below this value.
      kept: the minimum number of pixels per image to select. If there are fewer hard pixels, the hardest others are
        added.
    """

    threshold: float
    kept: int

    def choose(self, losses: jax.Array, valid: jax.Array) -> jax.Array:
        """Returns a mask of the selected pixels.

        Args:
          losses: float32 `[B, H, W]`, cross-entropies in nats.
          valid: bool `[B, H, W]`, False at pixels that are ignored.

        Returns:
          Bool `[B, H, W]`.
        """
        last = jnp.minimum(self.kept * losses.shape[0], jnp.sum(valid, dtype=jnp.int32) - 1)
        losses = jnp.where(valid, jnp.maximum(losses, 0.0), -1.0)
        at_least = jnp.minimum(_descending(losses, last), -jnp.log(jnp.float32(self.threshold)))
        return losses > at_least


def _descending(values: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the value at `index` of the non-negative values in descending order.

    It is found bit by bit from counts, which are summed over devices. Sorting would gather all pixels on every device.
    """
    bits = lax.bitcast_convert_type(values, jnp.int32)  # For numbers of at least 0, the order is the same.

    def body(bit: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | lax.shift_left(jnp.int32(1), 30 - bit)
        return jnp.where(jnp.sum(bits >= candidate, dtype=jnp.int32) > index, candidate, found)

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
    """Returns the weighted sum of the cross-entropies of the network's classifiers (section 4.1).

    The sum is `weight_fusion * CE(fusion) + weight_position * CE(position) + weight_channel * CE(channel)`, plus
    `auxiliary_weight * CE(auxiliary)` if there is an auxiliary head. Each CE is the mean over the valid pixels.

    Args:
      logits: float `[B, h, w, K]` each, preferably at the backbone's resolution (`upsample=False`), because they are
        up-sampled to the size of the labels a few rows at a time.
      labels: integers `[B, H, W]`; 255 is ignored.
      pixels: divisor of the sums over pixels; None for the number of valid pixels in `labels`.
      align_corners: how to up-sample the logits; the `align_corners` of the model.
      weights: weights of the fusion, position and channel losses.
      auxiliary_weight: weight of the auxiliary head's loss.
      hard_pixels: restricts the loss to hard pixels; None for all valid ones. Each cross-entropy is then the mean over
        the selected pixels, times the fraction of `pixels` that are in `labels`.
      class_weights: K factors for the pixels of each class; the divisor remains a number of pixels.

    Returns:
      The total loss, float32 `()`, and a dict with the unweighted loss of each classifier, such as `loss_fusion`.

    Raises:
      InputError: `weights` does not contain three numbers, or an array has the wrong dtype or shape.

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
            f"weights={weights!r} must be three numbers, for the fusion, position and channel losses",
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
        loss_sum = upsampled_cross_entropy(
            branch, chosen, align_corners=align_corners, class_weights=class_weights
        )
        parts[f"loss_{name}"] = loss_sum / divisor
        total = total + weight * parts[f"loss_{name}"]
    return total, parts
