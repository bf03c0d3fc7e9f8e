"""The function that `--mode=export` exports: class probabilities of whole images, as in `--mode=predict`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export

from danet_jax.errors import InputError
from danet_jax.inference.merging import Merging, fusion
from danet_jax.inference.predictor import SCORES
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Size, make_scaling, scale_images
from danet_jax.inference.whole_images import scores_of_rows
from danet_jax.weights.export_stablehlo import export_for_all_platforms

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet


def probabilities(
    protocol: Protocol, model: DANet, variables: Mapping[str, Any], images: jax.Array
) -> jax.Array:
    """Returns class probabilities under a protocol without a window, float32 `[B, H, W, K]`.

    Args:
      protocol: how the network is applied. Scores that are not probabilities are normalised to sum to 1 in each pixel,
        which keeps their order.
      model: the network.
      variables: its parameters and batch statistics.
      images: `[B, H, W, 3]`, uint8, or uint16 for a network of more than 8 bits; B, H and W may be symbolic dimensions
        of `jax.export`.

    Raises:
      InputError: the sizes are symbolic, and the protocol has several scales but no base size.
    """
    size = images.shape[1], images.shape[2]
    known = isinstance(size[0], int) and isinstance(size[1], int)
    scaled_size: Any = protocol.scaled_size if known else functools.partial(_open_size, protocol)
    network = fusion if known else _fusion_of_open_size
    new_sizes = [scaled_size(scale, *size) for scale in protocol.scales]
    merging = Merging(model, protocol, SCORES, same=all(new_size == size for new_size in new_sizes))
    logits = []
    for new_size in new_sizes:
        x = scale_images(protocol, images, make_scaling(protocol, [size], [new_size], new_size, padded=False))
        logits.append(merging.logits(variables, x, None, flip=protocol.flip, network=network))
    size_arrays = [jnp.stack([jnp.asarray(n, jnp.int32) for n in one])[None] for one in (size, *new_sizes)]
    scores = scores_of_rows(merging, logits, size_arrays, size[1])(jnp.arange(size[0], dtype=jnp.int32))
    scores = jnp.swapaxes(scores, 2, 3)
    if protocol.merge == "logits":
        return jax.nn.softmax(scores, axis=-1)
    return scores / scores.sum(-1, keepdims=True) if protocol.merge == "exp" else scores


def _open_size(protocol: Protocol, scale: float, height: Any, width: Any) -> Size:
    """Returns `protocol.scaled_size` for symbolic dimensions."""
    base = protocol.base_size
    if base is None and scale == 1:
        return height, width
    if base is None:
        raise InputError(
            f"evaluation.scales={protocol.scales} without a base size needs images of one known size; give it after "
            "the flags, such as 512x1024",
            what="evaluation.scales",
            value=protocol.scales,
        )

    # min and max cover both cases, since either side may be the longer one.
    def side(n: Any, other: Any) -> Any:
        def to(length: int) -> Any:
            """Returns side `n`, rounded, where the other side becomes `length`."""
            return (2 * length * n + other) // (2 * other)

        if isinstance(base, int):
            long = math.ceil(base * scale)
            text = f"min({long}, {to(long)})"
        else:
            long, short = int(max(base) * scale), int(min(base) * scale)
            text = f"min(min({long}, {to(long)}), max({short}, {to(short)}))"
        return export.symbolic_shape(f"max(1, {text})", scope=height.scope)[0]

    return side(height, width), side(width, height)


def _fusion_of_open_size(model: DANet, variables: Mapping[str, Any], x: jax.Array, sizes: None) -> jax.Array:
    """Calls `fusion` as a separate program, whose shapes all follow from two plain dimensions."""
    program = export_for_all_platforms(
        lambda variables, x: fusion(model, variables, x, sizes), variables, None, x.dtype
    )
    return program.call(variables, x)
