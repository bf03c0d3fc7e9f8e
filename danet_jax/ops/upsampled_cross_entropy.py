"""Cross-entropy at full resolution of logits at the backbone's, without the full-resolution logits."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from danet_jax.ops.resize import bilinear_weights

ROWS = 32
"""Of every image at a time: what exists at full resolution is `[B, ROWS, K, W]` float32."""


def upsampled_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, align_corners: bool, ignore_label: int = 255
) -> tuple[jax.Array, jax.Array]:
    """Sum over the valid pixels of the cross-entropy of the up-sampled logits, and the number of those pixels.

    The same value and gradient as `resize_bilinear` to the labels' size followed by a cross-entropy, but 32
    rows of every image at a time, up-sampled, compared with the labels and dropped. If the gradient is wanted,
    it is made in the same pass, at the resolution of `logits`: the loss is a sum, so its gradient only
    remains to be scaled. At 768 x 768 with 19 classes that is 6 MB of temporary memory per image, in place of 119.

    Args:
      logits: float32 or bfloat16 `[B, h, w, K]`; computed in float32.
      labels: integers of any kind, `[B, H, W]`: a class, 0 to K - 1, or `ignore_label`. Other values are not looked
        for (a device raises nothing): such a pixel counts as valid and belongs to no class, so that its
        loss is the logarithm of the softmax's denominator. The data pipeline refuses such labels.
      align_corners: of the up-sampling, see `danet_jax.ops.resize.resize_bilinear`.
      ignore_label: the label of pixels that do not count, whatever the logits there.

    Returns:
      The sum in nats, float32 `()`, and the count, int32 `()`. Divide the one by the other, over all devices.
    """
    if logits.ndim != 4 or labels.ndim != 3 or logits.shape[0] != labels.shape[0]:
        raise ValueError(f"logits [B, h, w, K] and labels [B, H, W]: got {logits.shape} and {labels.shape}")
    loss = _loss_sum(align_corners, ignore_label, logits, labels)
    return loss, jnp.sum(labels != ignore_label, dtype=jnp.int32)


def upsampled_pixel_losses(
    logits: jax.Array, labels: jax.Array, *, align_corners: bool, ignore_label: int = 255
) -> jax.Array:
    """The cross-entropy of every pixel of which `upsampled_cross_entropy` is the sum, 0 where the label is ignored.

    It serves to choose pixels, not to learn from: it has no gradient.

    Returns:
      Float32 `[B, H, W]`, nats; `exp(-loss)` is the probability of the pixel's own class.
    """
    batch, height, width = labels.shape
    x, weights, column_weights, blocks = _row_blocks(align_corners, ignore_label, logits, labels)

    def block(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        row_weights, labels = inputs
        up = _upsampled(x, row_weights, column_weights)
        of_class = jnp.sum(jnp.where(_one_hot(labels, up.shape[2]), up, 0.0), axis=2)
        return None, jnp.where(labels != ignore_label, jax.nn.logsumexp(up, axis=2) - of_class, 0.0)

    _, losses = lax.scan(block, None, (weights, blocks))
    return lax.stop_gradient(jnp.moveaxis(losses, 0, 2).reshape(batch, -1, width)[:, :height])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss_sum(align_corners: bool, ignore_label: int, logits: jax.Array, labels: jax.Array) -> jax.Array:
    return _by_rows(align_corners, ignore_label, logits, labels, with_gradient=False)[0]


def _loss_sum_forward(align_corners: bool, ignore_label: int, logits: jax.Array, labels: jax.Array) -> Any:
    return _by_rows(align_corners, ignore_label, logits, labels, with_gradient=True)


def _loss_sum_backward(align_corners: bool, ignore_label: int, gradient: jax.Array, scale: jax.Array) -> Any:
    return (gradient * scale.astype(gradient.dtype)).astype(gradient.dtype), None


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward)


def _by_rows(
    align_corners: bool, ignore_label: int, logits: jax.Array, labels: jax.Array, *, with_gradient: bool
) -> tuple[jax.Array, jax.Array]:
    """The sum, and its gradient of the shape and dtype of `logits` (or zeros)."""
    x, row_weights, column_weights, blocks = _row_blocks(align_corners, ignore_label, logits, labels)

    def block(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]) -> Any:
        loss_sum, gradient = carry
        weights, labels = inputs
        up = _upsampled(x, weights, column_weights)
        valid = (labels != ignore_label)[:, :, None, :]
        maximum = jnp.max(up, axis=2, keepdims=True)
        exponential = jnp.exp(up - maximum)
        denominator = jnp.sum(exponential, axis=2, keepdims=True)
        of_class = _one_hot(labels, up.shape[2])
        loss = maximum + jnp.log(denominator) - jnp.sum(jnp.where(of_class, up, 0.0), axis=2, keepdims=True)
        loss_sum = loss_sum + jnp.sum(jnp.where(valid, loss, 0.0))
        if with_gradient:
            d = jnp.where(valid, exponential / denominator - of_class.astype(jnp.float32), 0.0)
            d = _product("brkv,vw->brkw", d, column_weights)
            gradient = gradient + _product("brh,brkw->bhkw", _of_every_image(weights, x), d)
        return (loss_sum, gradient), None

    start = jnp.zeros((), jnp.float32), jnp.zeros(x.shape, jnp.float32)
    (loss_sum, gradient), _ = lax.scan(block, start, (row_weights, blocks))
    return loss_sum, jnp.swapaxes(gradient, 2, 3).astype(logits.dtype)


def _row_blocks(
    align_corners: bool, ignore_label: int, logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What a pass over blocks of rows needs.

    Returns:
      The logits as float32 `[B, h, K, w]`, the weights of each block's rows `[blocks, rows, h]`, of the columns
      `[W, w]`, and the labels of each block `[blocks, B, rows, W]`.
    """
    batch, height, width, _ = logits.shape
    _, new_height, new_width = labels.shape
    rows = min(ROWS, new_height)
    count = -(-new_height // rows)
    padding = rows * count - new_height

    # Block i is rows i, i + count, i + 2 * count ...: if the image's rows are divided over devices, each
    # device has its share of every block.
    every_row = np.zeros((rows * count, height), np.float32)
    every_row[:new_height] = bilinear_weights(height, new_height, align_corners=align_corners)
    row_weights = jnp.asarray(every_row.reshape(rows, count, height).swapaxes(0, 1))
    column_weights = jnp.asarray(bilinear_weights(width, new_width, align_corners=align_corners))
    labels = jnp.pad(labels, ((0, 0), (0, padding), (0, 0)), constant_values=ignore_label)
    blocks = jnp.moveaxis(labels.reshape(batch, rows, count, new_width), 2, 0)
    # Classes before columns: sums over few classes then run along whole rows of pixels.
    return jnp.swapaxes(logits.astype(jnp.float32), 2, 3), row_weights, column_weights, blocks


def _of_every_image(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(weights, (x.shape[0], *weights.shape))


def _upsampled(x: jax.Array, row_weights: jax.Array, column_weights: jax.Array) -> jax.Array:
    """Rows of the up-sampled logits, `[B, rows, K, W]`."""
    up = _product("brh,bhkw->brkw", _of_every_image(row_weights, x), x)
    return _product("brkw,vw->brkv", up, column_weights)


def _one_hot(labels: jax.Array, classes: int) -> jax.Array:
    """Whether a pixel is of a class, bool `[B, rows, K, W]`."""
    # uint8 holds every class number, but a class index is compared as int32.
    class_index = lax.broadcasted_iota(jnp.int32, (1, 1, classes, 1), 2)
    return labels[:, :, None, :].astype(jnp.int32) == class_index


def _product(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(pattern, a, b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
