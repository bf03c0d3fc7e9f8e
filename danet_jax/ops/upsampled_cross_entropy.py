"""Cross-entropy of up-sampled logits, without storing the logits at full resolution."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.errors import InputError
from danet_jax.ops.checks import check_arrays
from danet_jax.ops.precision import float32_einsum
from danet_jax.ops.resize import bilinear_weights
from danet_jax.ops.sharding import DATA, SPACE, mesh_of

Weights = tuple[float, ...] | None

ROWS = 32
"""The number of rows of every image to compute at a time, for which float32 `[B, ROWS, K, W]` is stored."""


def upsampled_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    align_corners: bool,
    class_weights: tuple[float, ...] | None = None,
) -> jax.Array:
    """Returns the sum of the cross-entropies of the up-sampled logits over the valid pixels, in nats, float32 `()`.

    Value and gradient are those of `resize_bilinear` to the labels' size followed by a cross-entropy, but only 32 rows
    of every image are up-sampled and compared with the labels at a time. If the gradient is needed, the same pass
    computes it at the resolution of `logits`; since the loss is a sum, its gradient then only has to be scaled. At
    768 x 768 with 19 classes, this takes 6 MB of temporary memory per image instead of 119.

    Args:
      logits: float32 or bfloat16 `[B, h, w, K]`; the computation is in float32.
      labels: integers of any type `[B, H, W]`, a class from 0 to K - 1, or 255 for pixels to ignore. Other values are
        not detected, because a device cannot raise errors: such a pixel counts as valid but belongs to no class, so its
        loss is the logarithm of the softmax denominator. The data pipeline refuses such labels.
      align_corners: how to up-sample the logits; see `danet_jax.ops.resize.resize_bilinear`.
      class_weights: K factors for the cross-entropy of the pixels of each class; None for 1.

    Raises:
      InputError: an array has the wrong dtype or shape, or the number of class weights is not K.
    """
    check_arrays(logits=(logits, "float B h w K"), labels=(labels, "integer B H W"))
    if class_weights is not None and len(class_weights) != logits.shape[-1]:
        raise InputError(
            f"class_weights has {len(class_weights)} weights, but there are {logits.shape[-1]} classes",
            what="class_weights",
            value=len(class_weights),
            allowed=logits.shape[-1],
        )
    return _loss_sum(align_corners, class_weights, logits, labels)


def upsampled_pixel_losses(logits: jax.Array, labels: jax.Array, *, align_corners: bool) -> jax.Array:
    """Returns the cross-entropy of every pixel, without a gradient; `upsampled_cross_entropy` returns its sum.

    Returns:
      Float32 `[B, H, W]` in nats, 0 at ignored pixels. `exp(-loss)` is the probability of a pixel's class.
    """
    batch, height, width = labels.shape
    row_weights, column_weights = (
        jnp.asarray(bilinear_weights(old, new, align_corners=align_corners))
        for old, new in zip(logits.shape[1:3], (height, width), strict=True)
    )
    x, weights, blocks = _row_blocks(row_weights, logits, labels)

    def block(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        row_weights, labels = inputs
        up = _upsampled(x, row_weights, column_weights)
        class_logit = jnp.sum(jnp.where(_one_hot(labels, up.shape[2]), up, 0.0), axis=2)
        return None, jnp.where(labels != IGNORE_LABEL, jax.nn.logsumexp(up, axis=2) - class_logit, 0.0)

    _, losses = lax.scan(block, None, (weights, blocks))
    return lax.stop_gradient(jnp.moveaxis(losses, 0, 2).reshape(batch, -1, width)[:, :height])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss_sum(align_corners: bool, class_weights: Weights, logits: jax.Array, labels: jax.Array) -> jax.Array:
    return _by_rows(align_corners, class_weights, logits, labels, with_gradient=False)[0]


def _loss_sum_forward(
    align_corners: bool, class_weights: Weights, logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _by_rows(align_corners, class_weights, logits, labels, with_gradient=True)


def _loss_sum_backward(
    align_corners: bool, class_weights: Weights, gradient: jax.Array, scale: jax.Array
) -> Any:
    return (gradient * scale.astype(gradient.dtype)).astype(gradient.dtype), None


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward)


def _by_rows(
    align_corners: bool, class_weights: Weights, logits: jax.Array, labels: jax.Array, *, with_gradient: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum and its gradient (or zeros), which has the shape and dtype of `logits`."""
    height, new_height = logits.shape[1], labels.shape[1]
    # A row of zeros is added on both sides, where a part of an image has the rows of its neighbours.
    row_weights = np.zeros((new_height, height + 2), np.float32)
    row_weights[:, 1:-1] = bilinear_weights(height, new_height, align_corners=align_corners)
    column_weights = bilinear_weights(logits.shape[2], labels.shape[2], align_corners=align_corners)
    part = functools.partial(_part, class_weights, with_gradient, jnp.asarray(column_weights))
    mesh = mesh_of(logits)
    axes = {} if mesh is None else {name: mesh.shape.get(name, 1) for name in (DATA, SPACE)}
    parts = axes.get(SPACE, 1)
    if parts == 1 or height % parts or new_height % parts or logits.shape[0] % axes[DATA]:
        edge = ((0, 0), (1, 1), (0, 0), (0, 0))
        loss_sum, gradient = part(jnp.asarray(row_weights), jnp.pad(logits, edge), labels)
        return loss_sum, gradient[:, 1:-1]
    rows, new_rows = height // parts, new_height // parts
    # The first and the last part of an image have only one neighbour. The row on the other side has no weight.
    weights = np.stack(
        [row_weights[i * new_rows :][:new_rows, i * rows :][:, : rows + 2] for i in range(parts)]
    )
    assert np.isclose(weights.sum(), row_weights.sum())
    down, up = ([(i, (i + step) % parts) for i in range(parts)] for step in (1, -1))

    def on_device(weights: jax.Array, logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        above, below = lax.ppermute(logits[:, -1:], SPACE, down), lax.ppermute(logits[:, :1], SPACE, up)
        loss_sum, gradient = part(weights[0], jnp.concatenate([above, logits, below], axis=1), labels)
        to_above, to_below = (
            lax.ppermute(gradient[:, :1], SPACE, up),
            lax.ppermute(gradient[:, -1:], SPACE, down),
        )
        gradient = gradient[:, 1:-1].at[:, -1:].add(to_above).at[:, :1].add(to_below)
        return lax.psum(loss_sum, names), gradient

    names = tuple(name for name, size in axes.items() if size > 1)
    by_rows = PartitionSpec(DATA if DATA in names else None, SPACE)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(SPACE), by_rows, by_rows),
        out_specs=(PartitionSpec(), by_rows),
        check_vma=False,
    )(jnp.asarray(weights), logits, labels)


def _part(
    class_weights: Weights,
    with_gradient: bool,
    column_weights: jax.Array,
    row_weights: jax.Array,
    logits: jax.Array,
    labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum over `labels` `[B, H, W]` and its gradient. `row_weights` has the shape `[H, h]`."""
    x, weights, blocks = _row_blocks(row_weights, logits, labels)

    def block(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]) -> Any:
        loss_sum, gradient = carry
        weights, labels = inputs
        up = _upsampled(x, weights, column_weights)
        valid = (labels != IGNORE_LABEL)[:, :, None, :]
        maximum = jnp.max(up, axis=2, keepdims=True)
        exponential = jnp.exp(up - maximum)
        denominator = jnp.sum(exponential, axis=2, keepdims=True)
        one_hot = _one_hot(labels, up.shape[2])
        loss = maximum + jnp.log(denominator) - jnp.sum(jnp.where(one_hot, up, 0.0), axis=2, keepdims=True)
        d = exponential / denominator - one_hot.astype(jnp.float32)
        if class_weights is not None:
            by_class = jnp.asarray(class_weights, jnp.float32)[:, None]
            weight = jnp.sum(jnp.where(one_hot, by_class, 0.0), axis=2, keepdims=True)
            loss, d = weight * loss, weight * d
        loss_sum = loss_sum + jnp.sum(jnp.where(valid, loss, 0.0))
        if with_gradient:
            d = jnp.where(valid, d, 0.0)
            d = float32_einsum("brkv,vw->brkw", d, column_weights)
            gradient = gradient + float32_einsum("brh,brkw->bhkw", _for_every_image(weights, x), d)
        return (loss_sum, gradient), None

    start = jnp.zeros((), jnp.float32), jnp.zeros(x.shape, jnp.float32)
    (loss_sum, gradient), _ = lax.scan(block, start, (weights, blocks))
    return loss_sum, jnp.swapaxes(gradient, 2, 3).astype(logits.dtype)


def _row_blocks(
    row_weights: jax.Array, logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Divides the rows into blocks.

    Returns:
      The logits as float32 `[B, h, K, w]`; the rows of `row_weights` `[H, h]` for each block, `[blocks, rows, h]`; and
      the labels of each block, `[blocks, B, rows, W]`.
    """
    batch, new_height, new_width = labels.shape
    rows = min(ROWS, new_height)
    count = -(-new_height // rows)
    padding = rows * count - new_height

    # Block i consists of rows i, i + count, i + 2 * count and so on, so that each device has a share of every block if
    # image rows are sharded.
    row_weights = jnp.pad(row_weights, ((0, padding), (0, 0))).reshape(rows, count, -1)
    labels = jnp.pad(labels, ((0, 0), (0, padding), (0, 0)), constant_values=IGNORE_LABEL)
    blocks = jnp.moveaxis(labels.reshape(batch, rows, count, new_width), 2, 0)
    # With classes before columns, sums over a few classes are vectorised along rows of pixels.
    return jnp.swapaxes(logits.astype(jnp.float32), 2, 3), jnp.swapaxes(row_weights, 0, 1), blocks


def _for_every_image(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(weights, (x.shape[0], *weights.shape))


def _upsampled(x: jax.Array, row_weights: jax.Array, column_weights: jax.Array) -> jax.Array:
    """Returns rows of the up-sampled logits, `[B, rows, K, W]`."""
    up = float32_einsum("brh,bhkw->brkw", _for_every_image(row_weights, x), x)
    return float32_einsum("brkw,vw->brkv", up, column_weights)


def _one_hot(labels: jax.Array, classes: int) -> jax.Array:
    """Returns a mask of the pixels of each class, bool `[B, rows, K, W]`."""
    # Labels may be uint8, but class indices are int32.
    class_index = lax.broadcasted_iota(jnp.int32, (1, 1, classes, 1), 2)
    return labels[:, :, None, :].astype(jnp.int32) == class_index
