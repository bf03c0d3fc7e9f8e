"""Hard pixels as in mmsegmentation and PaddleSeg, against PyTorch with sorting, and weights of the classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from danet_jax.models.danet import Logits
from danet_jax.ops.upsampled_cross_entropy import upsampled_pixel_losses
from danet_jax.training.losses import HardPixels, balanced_weights, multi_loss
from tests.reference.refusal import refused

CLASSES = 4


def example(rng, sharpness=3.0, ignored=0.2):
    logits = jnp.asarray(sharpness * rng.standard_normal((2, 3, 4, CLASSES)), jnp.float32)
    labels = rng.integers(0, CLASSES, (2, 17, 40)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = 255
    return logits, labels


def up_sampled(logits, labels):
    """Torch's logits `[B, K, h, w]`, which require a gradient, and the same at the size of the labels."""
    planes = torch.tensor(np.asarray(logits, np.float64)).permute(0, 3, 1, 2).requires_grad_()
    return planes, F.interpolate(planes, size=labels.shape[1:], mode="bilinear", align_corners=True)


def published(logits, labels, threshold, kept):
    """The mean over hard pixels and its gradient: probabilities sorted, as both libraries do it."""
    planes, up = up_sampled(logits, labels)
    target = torch.tensor(labels).long()
    losses = F.cross_entropy(up, target, ignore_index=255, reduction="none")
    valid = target != 255
    own = up.softmax(1).gather(1, target.where(valid, 0)[:, None])[:, 0]
    probabilities = own[valid].sort().values
    least = probabilities[min(kept * len(labels), len(probabilities) - 1)].item()
    hard = valid & (own < max(least, threshold))
    loss = losses[hard].mean()
    loss.backward()
    return loss.item(), planes.grad.permute(0, 2, 3, 1).numpy(), int(hard.sum())


def test_pixel_losses(rng):
    logits, labels = example(rng)
    losses = upsampled_pixel_losses(logits, jnp.asarray(labels), align_corners=True)
    _, up = up_sampled(logits, labels)
    expected = F.cross_entropy(up, torch.tensor(labels).long(), ignore_index=255, reduction="none")
    np.testing.assert_allclose(losses, expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("threshold", "kept", "sharpness"),
    [(0.7, 10, 3.0), (0.02, 100, 3.0), (0.7, 10**6, 1.0), (0.5, 300, 6.0), (1.0, 0, 3.0)],
    ids=str,
)
def test_hard_pixels(rng, threshold, kept, sharpness):
    logits, labels = example(rng, sharpness)
    expected, expected_gradient, _ = published(logits, labels, threshold, kept)

    @jax.jit
    def loss(x):
        return multi_loss(Logits(fusion=x), jnp.asarray(labels), hard_pixels=HardPixels(threshold, kept))

    (total, parts), gradient = jax.value_and_grad(loss, has_aux=True)(logits)
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    np.testing.assert_allclose(parts["loss_fusion"], total)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-4 * np.abs(expected_gradient).max())


def test_each_classifier_selects_hard_pixels_by_its_own_scores(rng):
    first, labels = example(rng)
    second, _ = example(rng)
    loss = functools.partial(multi_loss, weights=(1.0, 2.0, 3.0), hard_pixels=HardPixels(0.3, 20))
    total, parts = jax.jit(loss)(Logits(fusion=first, channel=second, auxiliary=first), jnp.asarray(labels))
    expected = parts["loss_fusion"] + 3 * parts["loss_channel"] + 0.4 * parts["loss_auxiliary"]
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(parts["loss_fusion"], published(first, labels, 0.3, 20)[0], rtol=1e-4)
    np.testing.assert_allclose(parts["loss_channel"], published(second, labels, 0.3, 20)[0], rtol=1e-4)


def test_without_valid_pixels_the_loss_is_0(rng):
    logits, labels = example(rng, ignored=1.1)
    total, _ = multi_loss(Logits(fusion=logits), jnp.asarray(labels), hard_pixels=HardPixels(0.7, 10))
    assert total == 0


def test_three_weights_are_needed(rng):
    logits, labels = example(rng)
    with refused(what="weights"):
        multi_loss(Logits(fusion=logits), jnp.asarray(labels), weights=(1.0, 1.0))


def test_balanced_weights(rng):
    pixels = rng.integers(1, 10**6, 8)
    shares = pixels / pixels.sum()
    for power in (0.0, 0.5, 1.0):
        weights = np.asarray(balanced_weights([*pixels.tolist(), 0], power))
        np.testing.assert_allclose(np.sum(shares * weights[:-1]), 1)  # The average weight of a pixel is 1.
        expected = (shares[0] / shares) ** power  # relative to the first class
        np.testing.assert_allclose(weights[:-1] / weights[0], expected)
        assert weights[-1] == 1
