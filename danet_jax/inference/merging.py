"""Turns a network's logits into scores of an image's pixels, for whole images and for windows.

Logits stay at the output stride, where there are 64 times fewer of them than pixels, until the scores of a part of the
image are needed. Two matrix products, one along columns and one along rows, then resize them. The merge "exp" needs
more work: the authors take exponentials after up-sampling the logits and before resizing them to the image's own size,
so up to two exponentials are mixed along each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError
from danet_jax.inference.predictor import Reduction
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import mirror
from danet_jax.ops.precision import float32_einsum
from danet_jax.ops.resize import Taps, bilinear_taps, dense

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

NO_SHIFT = -1e30
"""The exponent of a pixel before any exponential is added."""

REPRESENTABLE = (-60.0, 80.0)
"""Bounds of the logarithm of a pixel's largest score within which its scores fit in float32: exp(-87) to exp(88)."""

Network = Callable[["DANet", Mapping[str, Any], jax.Array, Any], jax.Array]
"""Maps a model, its variables, its input, and image sizes if the input is padded, to logits at the output stride."""

Weighted = tuple[jax.Array, jax.Array]
"""A matrix along one axis, float32 `[B, n, m]`, or its product with logits; and the weight of the exponentials of the
result, float32 `[B, n]`."""


class Axis(NamedTuple):
    """The position of a window along the rows or columns of a scaled image; ints, or int32 arrays of one shape.

    Attributes:
      image: the number of pixels of the image at its own size.
      scaled: the number of pixels of the scaled image.
      window: the number of pixels of the network's input; those past the scaled image are black.
      stride: the distance between windows.
      count: the number of windows.
      last: the first pixel of the last window, which need not be a multiple of the stride.
      start: the first pixel of this window.
    """

    image: Any
    scaled: Any
    window: Any
    stride: Any
    count: Any
    last: Any
    start: Any

    @classmethod
    def whole(cls, image: jax.Array, scaled: jax.Array) -> Axis:
        """Returns one window over the whole axis."""
        one, zero = jnp.ones_like(scaled), jnp.zeros_like(scaled)
        return cls(image, scaled, scaled, scaled, one, zero, zero)

    def windows_over(self, pixel: jax.Array) -> jax.Array:
        """Returns how many of the windows cover a pixel of the scaled image, at least 1."""
        first = jnp.maximum((pixel - self.window) // self.stride + 1, 0)
        past = jnp.minimum(pixel // self.stride + 1, self.count - 1)
        final = (pixel >= self.last) & (pixel < self.last + self.window)
        return jnp.maximum(jnp.maximum(past - first, 0) + final.astype(jnp.int32), 1)


def fusion(model: DANet, variables: Mapping[str, Any], x: jax.Array, sizes: Any) -> jax.Array:
    """Returns the network's final logits at the output stride, `[B, h, w, K]`."""
    logits: Any = model.apply(variables, x, sizes=sizes, upsample=False)
    return logits.fusion


def accepts_sizes(model: DANet) -> bool:
    """Returns whether the network's input may be padded, which a custom backbone need not support."""
    return getattr(model, "accepts_sizes", True)


class Sums(NamedTuple):
    """Sums of scores. W is the last axis, so that no product needs a transposition.

    Attributes:
      scores: float32 `[B, T, K, W]`; for "exp" the scores divided by exp(shift).
      shift: float32 `[B, T, 1, W]`, used by "exp": each pixel has its own exponent, so that nothing overflows.
    """

    scores: jax.Array
    shift: jax.Array


class Merging:
    """Turns a network's logits into scores under a protocol.

    Args:
      model: the network.
      protocol: how the scores are merged.
      reduction: what is computed from the scores.
      same: whether all scaled images are as large as the image, so that no pixels are mixed.

    Raises:
      InputError: the protocol has `flip_pairs`, but no classes were given.
    """

    def __init__(self, model: DANet, protocol: Protocol, reduction: Reduction, *, same: bool) -> None:
        self._views = len(protocol.scales) * len(protocol.flips)
        # The softmax of a single view keeps the order of the classes.
        ordered = reduction.ranking and self._views == 1 and protocol.merge == "softmax"
        self.merge = "logits" if ordered else protocol.merge
        self._model, self._ranking, self._same = model, reduction.ranking, same
        self._align_corners = bool(protocol.align_corners)
        self._mirrored = np.array(protocol.mirrored, np.int32)
        if protocol.flip and protocol.flip_pairs and not protocol.mirrored:
            raise InputError(
                f"flip_pairs={protocol.flip_pairs} needs the names of the network's classes; pass them as classes=",
                what="flip_pairs",
                value=protocol.flip_pairs,
            )

    def logits(
        self, variables: Mapping[str, Any], x: jax.Array, sizes: Any, *, flip: bool, network: Network = fusion
    ) -> list[jax.Array]:
        """Returns logits of the network's input and, flipped back, of its mirror image: float32 `[B, h, K, w]` each.

        Up-sampling is symmetric, so both are added here if the protocol adds them.
        """
        if not flip:
            return [jnp.swapaxes(network(self._model, variables, x, sizes), 2, 3)]
        low = None if sizes is None else -(-jnp.asarray(sizes) // self._model.output_stride)
        both = (
            jnp.concatenate([x, mirror(x, sizes)]),
            None if sizes is None else jnp.concatenate([sizes] * 2),
        )
        upright, mirrored = jnp.split(network(self._model, variables, *both), 2)
        mirrored = mirror(mirrored, low)
        if len(self._mirrored):
            mirrored = mirrored[..., self._mirrored]
        views = [upright, mirrored] if self.merge == "softmax" else [upright + mirrored]
        return [jnp.swapaxes(view, 2, 3) for view in views]

    def swap_sides(self, logits: jax.Array, mirrored: jax.Array) -> jax.Array:
        """Returns logits `[B, h, K, w]` with the protocol's `flip_pairs` swapped where `mirrored`, bool `[B, 1]`."""
        if not len(self._mirrored):
            return logits
        return jnp.where(mirrored[..., None, None], logits[:, :, self._mirrored], logits)

    def resize_weights(
        self, pixels: jax.Array, axis: Axis, samples: Any, mirrored: Any = None
    ) -> list[Weighted]:
        """Returns the matrices that resize a window's logits along one axis to `pixels` of the image.

        Args:
          pixels: int32 `[n]`.
          axis: the position of the window; its fields are `[B, 1]`.
          samples: the number of logits, some of which may be padding.
          mirrored: bool `[B, 1]`, whether the scaled image was flipped before the window was cut.

        Returns:
          For "exp", one matrix for each pixel of the scaled image that is mixed; otherwise a single matrix.
        """
        if self._same:
            sources = jnp.clip(pixels[None], 0, axis.scaled - 1)[None]
            fraction = jnp.ones(sources.shape, jnp.float32)
        else:
            sources, fraction = bilinear_taps(
                pixels[None], axis.scaled, axis.image, align_corners=self._align_corners
            )
        axis = Axis(*(x[None] for x in axis))
        if mirrored is not None:
            sources = jnp.where(mirrored[None], axis.scaled - 1 - sources, sources)
        at = sources - axis.start
        reached = (at >= 0) & (at < axis.window)
        fraction = jnp.where(reached, fraction / axis.windows_over(sources).astype(jnp.float32), 0.0)
        index, weight = bilinear_taps(
            jnp.clip(at, 0, axis.window - 1),
            -(-axis.window // self._model.output_stride),
            axis.window,
            align_corners=self._model.align_corners,
        )  # [2, m, B, n]
        if self.merge == "exp":
            each = zip(index.swapaxes(0, 1), weight.swapaxes(0, 1), fraction, strict=True)
            return [(dense(Taps(i, w), samples), pixel_weight) for i, w, pixel_weight in each]
        linear = Taps(*(x.reshape(-1, *x.shape[2:]) for x in (index, weight * fraction[None])))
        return [(dense(linear, samples), fraction[0])]

    def zeros(self, *shape: Any) -> Sums:
        """Returns empty sums for scores of shape `[B, T, K, W]`."""
        return Sums(jnp.zeros(shape, jnp.float32), jnp.full((*shape[:2], 1, shape[3]), NO_SHIFT, jnp.float32))

    def add(self, sums: Sums, parts: Sequence[Weighted]) -> Sums:
        """Adds the results of `resize_rows` for a view or, for "exp", for a part of it."""
        if self.merge == "exp":
            return _add_exponentials(sums, parts)
        [(logits, _)] = parts
        scores = logits if self.merge == "logits" else jax.nn.softmax(logits, axis=2)
        return sums._replace(scores=sums.scores + scores / self._views)

    def scores(self, sums: Sums) -> jax.Array:
        """Returns the scores, float32 `[B, T, K, W]`.

        Scores of "exp" are sums of exponentials and may have any magnitude. They are returned as they are in pixels
        whose largest score lies between exp(-60) and exp(80); elsewhere the scores of a pixel are divided by a common
        factor that brings the largest into this range.
        """
        if self.merge != "exp" or self._ranking:
            return sums.scores
        largest = jnp.max(sums.scores, 2, keepdims=True)
        peak = jnp.where(largest > 0, jnp.log(jnp.maximum(largest, 1e-37)), 0.0) + sums.shift
        # The factor is applied in two steps, since it could overflow where small weights make a score small.
        root = jnp.exp((sums.shift + (jnp.clip(peak, *REPRESENTABLE) - peak)) / 2)
        return sums.scores * root * root


def resize_columns(logits: jax.Array, columns: Sequence[Weighted]) -> list[Weighted]:
    """Resizes logits `[B, h, K, w]` to columns of the image: `[B, h, K, W]` and weights `[B, W]` for each matrix."""
    return [(_multiply("bhkw,bvw->bhkv", logits, matrix), weight) for matrix, weight in columns]


def resize_rows(by_column: Sequence[Weighted], rows: Sequence[Weighted]) -> list[Weighted]:
    """Resizes results of `resize_columns` to rows: logits `[B, T, K, W]` and weights `[B, T, 1, W]` for each pair."""
    return [
        (_multiply("bhkv,bth->btkv", x, matrix), row_weight[:, :, None, None] * column_weight[:, None, None])
        for matrix, row_weight in rows
        for x, column_weight in by_column
    ]


def _multiply(pattern: str, x: jax.Array, matrix: jax.Array) -> jax.Array:
    return float32_einsum(pattern, x, jnp.broadcast_to(matrix, (x.shape[0], *matrix.shape[1:])))


def _add_exponentials(sums: Sums, parts: Sequence[Weighted]) -> Sums:
    """Adds `weight * exp(logits)` for each part. Weights must not be negative."""
    peaks = [jnp.where(weight > 0, part.max(2, keepdims=True), NO_SHIFT) for part, weight in parts]
    shift = jnp.stack([sums.shift, *peaks]).max(0)
    scores = sums.scores * jnp.exp(sums.shift - shift)
    for part, weight in parts:
        # Where the weight is 0, the exponential may be infinite and the product NaN.
        scores = scores + jnp.where(weight > 0, weight * jnp.exp(part - shift), 0.0)
    return Sums(scores, shift)
