"""What a network makes of one picture, with its attention on and off: the numbers that the explorer shows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from danet_jax.errors import InputError
from danet_jax.inference.scaling import seen_whole
from danet_jax.models.insight import SCALES, Inside, learnt_scales, look_inside, with_scales
from danet_jax.ops.resize import bilinear_weights

if TYPE_CHECKING:
    from danet_jax.inference.segmenter import Segmenter
    from danet_jax.models.danet import DANet

_LARGE = 1 << 22
"""Pixels of a picture from which on its memory is asked for first."""
_OFF = {
    "fusion": (),
    "without_position": ("alpha",),
    "without_channel": ("beta",),
    "without_both": ("alpha", "beta"),
}
_CHANNEL_MODULES = ("channel_in", "channel_attention", "channel_out")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a network made of a picture; places are those of its last features, `N = h * w` of them.

    Attributes:
      grid: (h, w), rows and columns of places.
      scaled: (height, width) at which the network saw the picture.
      logits: float32 `[h, w, K]` by what was asked: `fusion`, and where the network has them `position` and `channel`
        (the branches' own classifiers), and the fusion `without_position` (alpha 0), `without_channel` (beta 0) and
        `without_both`.
      queries, keys: float32 `[N, d]` of the position attention; None without it.
      alpha, beta: the scales of the two attentions; None without them.
      channel_maps: float32 `[N, C]` by module: `channel_in` enters the channel attention, `channel_attention` leaves
        it, and `channel_out` is what the branch's classifier sees; empty without it.
      channel_weights: float32 `[C, K]` of that classifier; None without it.
    """

    grid: tuple[int, int]
    scaled: tuple[int, int]
    logits: Mapping[str, np.ndarray]
    queries: np.ndarray | None
    keys: np.ndarray | None
    alpha: float | None
    beta: float | None
    channel_maps: Mapping[str, np.ndarray]
    channel_weights: np.ndarray | None


def look(segmenter: Segmenter, image: np.ndarray) -> Seen:
    """Applies the network once to the picture as a whole, at scale 1 of the segmenter's protocol.

    Backbone and attention are computed once; only what follows alpha and beta is computed for each of their values.

    Args:
      segmenter: the network.
      image: uint8 `[H, W, 3]` RGB.

    Raises:
      InputError: the picture takes more memory than there is.
    """
    model, variables = segmenter.model, segmenter.variables
    scales = learnt_scales(variables["params"])
    alpha, beta = (float(scales[name]) if name in scales else None for name in ("alpha", "beta"))
    kinds = {kind: off for kind, off in _OFF.items() if scales.keys() >= set(off)}

    images = seen_whole(segmenter.protocol, image)
    factors = jnp.asarray([[name not in off for name in SCALES] for off in kinds.values()], jnp.float32)
    fusions, inside = _run(model, variables, images, factors)

    logits = {name: fusions[index, 0] for index, name in enumerate(kinds)}
    branches = {"position": inside.logits.position, "channel": inside.logits.channel}
    logits |= {name: branch[0] for name, branch in branches.items() if branch is not None}
    h, w = logits["fusion"].shape[:2]
    channel_weights = None
    if beta is not None:
        kernel = np.asarray(variables["params"]["head"]["channel_classifier"]["kernel"], np.float32)
        channel_weights = kernel.reshape(-1, model.num_classes)
    return Seen(
        grid=(h, w),
        scaled=(images.shape[1], images.shape[2]),
        logits={name: np.asarray(x, np.float32) for name, x in logits.items()},
        queries=None if inside.queries is None else inside.queries[0],
        keys=None if inside.keys is None else inside.keys[0],
        alpha=alpha,
        beta=beta,
        channel_maps={
            name: np.asarray(x, np.float32).reshape(h * w, -1) for name, x in inside.modules.items()
        },
        channel_weights=channel_weights,
    )


def labels_at(segmenter: Segmenter, seen: Seen, kind: str, size: tuple[int, int], every: int) -> np.ndarray:
    """Labels, uint8 `[ceil(H / every), ceil(W / every)]`: those of the picture's every so-manyth pixel.

    Args:
      segmenter: whose protocol and up-sampling bring logits to the picture's size.
      seen: of `look`.
      kind: which of its logits.
      size: (H, W) of the picture.
      every: 1 for each pixel.
    """
    align_network, align_protocol = segmenter.model.align_corners, bool(segmenter.protocol.align_corners)

    def weights(axis: int) -> np.ndarray:
        found = bilinear_weights(seen.grid[axis], seen.scaled[axis], align_corners=align_network)
        if seen.scaled[axis] != size[axis]:
            found = bilinear_weights(seen.scaled[axis], size[axis], align_corners=align_protocol) @ found
        return found[::every]

    rows, columns = weights(0), weights(1)
    logits = np.swapaxes(seen.logits[kind], 1, 2) @ columns.T  # [h, K, W]
    band = max(1, (1 << 25) // logits[0].size)
    parts = [
        np.tensordot(rows[start : start + band], logits, 1).argmax(1).astype(np.uint8)
        for start in range(0, len(rows), band)
    ]
    return np.concatenate(parts)


def _run(model: DANet, variables: Any, images: jax.Array, factors: jax.Array) -> Any:
    """Logits of each pair of factors, and what the network sowed, unless that takes more memory than is free."""
    height, width = images.shape[1:3]
    refused = (
        f"a picture seen at {height}x{width} takes more memory than this machine has free; make it smaller"
    )
    try:
        if height * width >= _LARGE:
            # Too little memory ends a process on CPUs without a word, so the compiler is asked before.
            compiled = _apply_to_each.lower(variables, images, factors, model=model).compile()
            needed, free = compiled.memory_analysis(), psutil.virtual_memory().available
            wanted = needed.temp_size_in_bytes + needed.output_size_in_bytes if needed else 0
            if images.devices().pop().platform == "cpu" and wanted > free:
                raise InputError(f"{refused} ({wanted / 2**30:.1f} GiB of {free / 2**30:.1f})")
            return jax.device_get(compiled(variables, images, factors))
        return jax.device_get(_apply_to_each(variables, images, factors, model=model))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(refused) from error


@functools.partial(jax.jit, static_argnames="model")
def _apply_to_each(variables: Any, images: jax.Array, factors: jax.Array, *, model: DANet) -> Any:
    params = variables["params"]

    def with_factors(factors: jax.Array) -> Inside:
        scales = learnt_scales(params)
        changed = {name: scales[name] * factors[i] for i, name in enumerate(SCALES) if name in scales}
        # Without what the network sowed when it was made, which `init` returns too.
        all_of_it = {"params": with_scales(params, changed), "batch_stats": variables["batch_stats"]}
        return look_inside(model, all_of_it, images, _CHANNEL_MODULES)

    # What does not depend on the factors stays as it is under vmap, so it is computed once.
    inside = jax.vmap(with_factors)(factors)
    return inside.logits.fusion, jax.tree.map(lambda x: x[0], inside)
