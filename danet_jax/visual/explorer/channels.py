"""The channel attention in numbers that fit a page: its map, its most attended channels, and each class's channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from danet_jax.visual.explorer.looking import Seen
from danet_jax.visual.explorer.map import cell_means

MOST_ATTENDED = 8
"""Channels shown."""
PER_CLASS = 8
"""Channels of each class."""
_LARGEST_MAP = 1 << 13
"""Places of a channel's small picture."""
_DECADES = 6
"""Of the map that its picture tells apart."""


def channel_map(features: np.ndarray, energy: str) -> np.ndarray:
    """The channel attention map A, float32 `[C, C]`, of features `[N, C]`; see `channel_attention`."""
    gram = features.T.astype(np.float64) @ features
    logits = gram if energy == "paper" else -gram
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def channel_numbers(
    seen: Seen, energy: str, classes: Sequence[int]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts for the page, and its arrays.

    Args:
      seen: of a network with channel attention.
      energy: its kind.
      classes: those whose channels are shown.
    """
    attention = channel_map(seen.channel_maps["channel_in"], energy)
    received = attention.sum(0)
    attended = np.argsort(-received, kind="stable")[:MOST_ATTENDED]
    weights = seen.channel_weights
    assert weights is not None
    of_class = {c: np.argsort(-weights[:, c], kind="stable")[:PER_CLASS] for c in classes}
    weighed = np.unique(np.concatenate(list(of_class.values()))) if of_class else np.zeros(0, np.int64)

    cell = 1
    while -(-seen.grid[0] // cell) * -(-seen.grid[1] // cell) > _LARGEST_MAP:
        cell += 1
    sources = (("channel_in", attended), ("channel_attention", attended), ("channel_out", weighed))
    pictures: list[np.ndarray] = []
    ranges: list[tuple[float, float]] = []
    for name, channels in sources:
        small = cell_means(seen.channel_maps[name][:, channels], seen.grid, cell).T
        low, high = small.min(1), small.max(1)
        extent = np.where(high > low, high - low, 1.0)[:, None]
        pictures.append(np.rint((small - low[:, None]) / extent * 255).astype(np.uint8))
        ranges.extend(zip(low.tolist(), high.tolist(), strict=True))
    decades = np.log10(np.maximum(attention, 10.0**-_DECADES)) / _DECADES + 1
    facts = {
        "count": len(received),
        "decades": _DECADES,
        "energy": energy,
        "grid": [-(-n // cell) for n in seen.grid],
        "attended": [{"channel": int(c), "received": float(received[c])} for c in attended],
        "weighed": weighed.tolist(),
        "ofClass": {
            str(c): [{"channel": int(i), "weight": float(weights[i, c])} for i in channels]
            for c, channels in of_class.items()
        },
        "ranges": ranges,
    }
    arrays = {
        "channelMap": np.rint(decades * 255).astype(np.uint8),
        "channelPictures": np.concatenate(pictures),
    }
    return facts, arrays
