"""From the network's logits to scores of an image's pixels: the way back of whole images and of windows alike.

Logits stay at the output stride, 64 times fewer than pixels, until a part of the image is asked for. From there to the
pixels it is two products with matrices, one along columns and one along rows, but for `exp`, which the authors apply
between up-sampling logits and resizing the scaled image: there the exponentials of up to two pixels of the scaled
image are mixed along each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import flipped
from danet_jax.inference.scores import Wanted
from danet_jax.ops.precision import float32_einsum
from danet_jax.ops.resize import Taps, bilinear_taps, dense

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

NOTHING = -1e30
"""The exponent of a pixel to which no exponential has been added yet."""

REPRESENTABLE = (-60.0, 80.0)
"""Logarithms of a pixel's largest score between which all its scores fit in float32: exp(-87) to exp(88)."""

Network = Callable[["DANet", Mapping[str, Any], jax.Array, Any], jax.Array]
"""From a model, its variables, what it sees, and sizes of that if it is padded, to logits at the output stride."""

Weighted = tuple[jax.Array, jax.Array]
"""A matrix along one axis, float32 `[B, n, m]`, or what it makes of logits; and float32 `[B, n]`, with which weight the
exponentials of the result count."""


class Axis(NamedTuple):
    """One of the windows along the rows or the columns of a scaled image; ints, or int32 arrays of one shape.

    Attributes:
      image: pixels of the image at its own size.
      scaled: pixels of the scaled image.
      window: pixels that the network sees; those past the scaled image are black.
      stride: between windows.
      count: number of windows.
      last: where the last one starts, which need not be a multiple of the stride.
      start: where this one starts.
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
        """One window over all of it."""
        one, zero = jnp.ones_like(scaled), jnp.zeros_like(scaled)
        return cls(image, scaled, scaled, scaled, one, zero, zero)

    def windows_over(self, pixel: jax.Array) -> jax.Array:
        """How many of the windows reach over a pixel of the scaled image, at least 1."""
        first = jnp.maximum((pixel - self.window) // self.stride + 1, 0)
        past = jnp.minimum(pixel // self.stride + 1, self.count - 1)
        final = (pixel >= self.last) & (pixel < self.last + self.window)
        return jnp.maximum(jnp.maximum(past - first, 0) + final.astype(jnp.int32), 1)


def fusion(model: DANet, variables: Mapping[str, Any], x: jax.Array, sizes: Any) -> jax.Array:
    """A network's result at the output stride, `[B, h, w, K]`."""
    logits: Any = model.apply(variables, x, sizes=sizes, upsample=False)
    return logits.fusion


class Sums(NamedTuple):
    """Scores so far; W is innermost, so that no product needs a transposition.

    Attributes:
      scores: float32 `[B, T, K, W]`; of "exp", the true scores divided by exp(shift).
      shift: float32 `[B, T, 1, W]`, of "exp" only: every pixel carries its own exponent, so that nothing overflows.
    """

    scores: jax.Array
    shift: jax.Array


class Merging:
    """How a network's logits become what is wanted of scores, under a protocol; all of it known when compiling.

    Args:
      model: the network.
      protocol: how its scores are merged.
      wanted: see `Wanted`.
      same: whether all scaled images are as large as the image, so that no pixels are mixed.

    Raises:
      InputError: the flip swaps classes whose numbers are not known.
    """

    def __init__(self, model: DANet, protocol: Protocol, wanted: Wanted, *, same: bool) -> None:
        self._views = len(protocol.scales) * len(protocol.flips)
        # The softmax of one view keeps the order of the classes.
        ordered = wanted.ranking and self._views == 1 and protocol.merge == "softmax"
        self.merge = "logits" if ordered else protocol.merge
        self._model, self._ranking, self._same = model, wanted.ranking, same
        self._align_corners = bool(protocol.align_corners)
        self._mirrored = np.array(protocol.mirrored, np.int32)
        if protocol.flip and protocol.flip_pairs and not protocol.mirrored:
            raise InputError(f"flip_pairs={protocol.flip_pairs} need the names of the network's classes")

    def logits(
        self, variables: Mapping[str, Any], x: jax.Array, sizes: Any, *, flip: bool, network: Network = fusion
    ) -> list[jax.Array]:
        """Logits of what the network sees and, brought back upright, of its flip: float32 `[B, h, K, w]` each.

        Up-sampling is the same from both sides, so that where they are added up they are at once.
        """
        if not flip:
            return [jnp.swapaxes(network(self._model, variables, x, sizes), 2, 3)]
        low = None if sizes is None else -(-jnp.asarray(sizes) // self._model.output_stride)
        both = (
            jnp.concatenate([x, flipped(x, sizes)]),
            None if sizes is None else jnp.concatenate([sizes] * 2),
        )
        upright, mirrored = jnp.split(network(self._model, variables, *both), 2)
        mirrored = flipped(mirrored, low)
        if len(self._mirrored):
            mirrored = mirrored[..., self._mirrored]
        views = [upright, mirrored] if self.merge == "softmax" else [upright + mirrored]
        return [jnp.swapaxes(view, 2, 3) for view in views]

    def of_upright(self, logits: jax.Array, mirrored: jax.Array) -> jax.Array:
        """Logits `[B, h, K, w]` of classes as they are upright, where images were flipped if bool `[B, 1]`."""
        if not len(self._mirrored):
            return logits
        return jnp.where(mirrored[..., None, None], logits[:, :, self._mirrored], logits)

    def ways(self, pixels: jax.Array, axis: Axis, samples: Any, mirrored: Any = None) -> list[Weighted]:
        """From a window's logits along one axis to `pixels` of the image.

        Args:
          pixels: int32 `[n]`.
          axis: fields `[B, 1]`.
          samples: how many logits there are, some of which may be of padding.
          mirrored: bool `[B, 1]`, whether the scaled image was flipped before windows were cut.

        Returns:
          With "exp" one for each pixel of the scaled image that is mixed, otherwise one for all of it.
        """
        if self._same:
            place = jnp.clip(pixels[None], 0, axis.scaled - 1)[None]
            mix = jnp.ones(place.shape, jnp.float32)
        else:
            place, mix = bilinear_taps(
                pixels[None], axis.scaled, axis.image, align_corners=self._align_corners
            )
        axis = Axis(*(x[None] for x in axis))
        if mirrored is not None:
            place = jnp.where(mirrored[None], axis.scaled - 1 - place, place)
        at = place - axis.start
        reached = (at >= 0) & (at < axis.window)
        mix = jnp.where(reached, mix / axis.windows_over(place).astype(jnp.float32), 0.0)
        index, weight = bilinear_taps(
            jnp.clip(at, 0, axis.window - 1),
            -(-axis.window // self._model.output_stride),
            axis.window,
            align_corners=self._model.align_corners,
        )  # [2, m, B, n]
        if self.merge == "exp":
            each = zip(index.swapaxes(0, 1), weight.swapaxes(0, 1), mix, strict=True)
            return [(dense(Taps(i, w), samples), of_pixel) for i, w, of_pixel in each]
        linear = Taps(*(x.reshape(-1, *x.shape[2:]) for x in (index, weight * mix[None])))
        return [(dense(linear, samples), mix[0])]

    def nothing(self, *shape: Any) -> Sums:
        """Before anything is added, for scores of a shape `[B, T, K, W]`."""
        return Sums(jnp.zeros(shape, jnp.float32), jnp.full((*shape[:2], 1, shape[3]), NOTHING, jnp.float32))

    def add(self, sums: Sums, parts: Sequence[Weighted]) -> Sums:
        """Adds what `brought` gives of a view, or with "exp" of a part of it."""
        if self.merge == "exp":
            return _with_exponentials(sums, parts)
        [(logits, _)] = parts
        scores = logits if self.merge == "logits" else jax.nn.softmax(logits, axis=2)
        return sums._replace(scores=sums.scores + scores / self._views)

    def scores(self, sums: Sums) -> jax.Array:
        """The scores, float32 `[B, T, K, W]`, that fit in float32.

        Those of "exp" are sums of exponentials and may be of any magnitude. Where the largest of a pixel lies between
        exp(-60) and exp(80) they are given as they are; elsewhere the scores of that pixel are divided by one common
        factor that brings the largest there.
        """
        if self.merge != "exp" or self._ranking:
            return sums.scores
        largest = jnp.max(sums.scores, 2, keepdims=True)
        peak = jnp.where(largest > 0, jnp.log(jnp.maximum(largest, 1e-37)), 0.0) + sums.shift
        # In two steps, since a score may be small because its weights are, and the factor alone overflow.
        root = jnp.exp((sums.shift + (jnp.clip(peak, *REPRESENTABLE) - peak)) / 2)
        return sums.scores * root * root


def across(logits: jax.Array, columns: Sequence[Weighted]) -> list[Weighted]:
    """Logits `[B, h, K, w]` brought to columns of the image: `[B, h, K, W]` and weights `[B, W]` by each way."""
    return [(_times("bhkw,bvw->bhkv", logits, matrix), weight) for matrix, weight in columns]


def brought(wide: Sequence[Weighted], rows: Sequence[Weighted]) -> list[Weighted]:
    """Logits of pixels `[B, T, K, W]` and their weights `[B, T, 1, W]`, of `across` and ways along rows."""
    return [
        (_times("bhkv,bth->btkv", x, matrix), of_row[:, :, None, None] * of_column[:, None, None])
        for matrix, of_row in rows
        for x, of_column in wide
    ]


def _times(pattern: str, x: jax.Array, matrix: jax.Array) -> jax.Array:
    return float32_einsum(pattern, x, jnp.broadcast_to(matrix, (x.shape[0], *matrix.shape[1:])))


def _with_exponentials(sums: Sums, parts: Sequence[Weighted]) -> Sums:
    """Adds `weight * exp(logits)` of each, weights of at least 0."""
    peaks = [jnp.where(weight > 0, part.max(2, keepdims=True), NOTHING) for part, weight in parts]
    shift = jnp.stack([sums.shift, *peaks]).max(0)
    scores = sums.scores * jnp.exp(sums.shift - shift)
    for part, weight in parts:
        # Where the weight is 0 the exponential may be infinite, and 0 times infinity is no number.
        scores = scores + jnp.where(weight > 0, weight * jnp.exp(part - shift), 0.0)
    return Sums(scores, shift)
