"""The attention explorer: one page that shows what each position of an image attends to."""

from __future__ import annotations

import html
import math
import os
from pathlib import Path

import numpy as np

from danet_jax.data.decode import to_8_bits
from danet_jax.errors import InputError
from danet_jax.inference.segmenter import Segmenter, validate_images
from danet_jax.models.danet import DANet
from danet_jax.runs.files import as_path, write_text
from danet_jax.visual.explorer.numbers import (
    Activations,
    average_cells,
    cells,
    centre,
    compute_activations,
    compute_channel_numbers,
    compute_labels,
    compute_map_numbers,
    quantise,
    smallest_cell,
)
from danet_jax.visual.packing import describe_network, encode_photo, render_page

LONGEST = 2048
"""The longer side of the image and of the label maps in a page, in pixels."""
MOST_CELLS = 2048
"""The maximum number of cells of a pooled map, all of whose weights are stored."""
_CLASSES_WITH_CHANNELS = 24
_MAP_SHARE = 0.62
"""The share of the size limit that queries and keys may take before they are compressed and encoded in base64."""
_NEARLY_ZERO = 1e-3
_SCRIPTS = ("colours.js", "attention.js", "state.js", "stage.js", "panels.js", "explorer.js")

_LABEL_MAPS = {
    "fusion": ("Result", "both branches"),
    "position": ("Position branch", "its own classifier"),
    "channel": ("Channel branch", "its own classifier"),
    "without_position": ("Without position", "alpha set to 0"),
    "without_channel": ("Without channel", "beta set to 0"),
    "without_both": ("Without both", "alpha and beta set to 0"),
}
"""The title and the note of each label map."""


def explore(
    segmenter: Segmenter,
    image: np.ndarray,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    limit_megabytes: float = 16.0,
) -> Page:
    """Writes a page, to open from disk, that shows what the position of `image` under the mouse attends to.

    The page stores queries and keys, and computes any row and column of the position attention map from them, within
    1e-2 of the exact weights. It also shows what alpha and beta change, and the channel attention.

    >>> import danet_jax
    >>> segmenter = danet_jax.load_segmenter("runs/quickstart")  # doctest: +SKIP
    >>> danet_jax.explore(segmenter, image, "explore.html")  # doctest: +SKIP

    Args:
      segmenter: a network, for example from `danet_jax.load_segmenter`.
      image: uint8 `[H, W, 3]` RGB, or uint16 if `segmenter.protocol.bits` is more than 8. The network is applied once
        to the whole image, at scale 1 of its protocol.
      path: the file to write.
      name: the page's title; by default the file's name.
      limit_megabytes: the maximum size of the page. If an image has too many positions for it, they are pooled: the
        page then stores exact sums of weights.

    Returns:
      The page's size in bytes, an integer that a notebook displays as the page itself.

    Raises:
      InputError: an argument has the wrong type, `image` needs more memory than is free, or the page is larger than
        the limit.
    """
    if not isinstance(segmenter, Segmenter):
        allowed = "a danet_jax.Segmenter, for example from danet_jax.load_segmenter"
        raise InputError(
            f"segmenter must be {allowed}, not {type(segmenter).__name__}", what="segmenter", allowed=allowed
        )
    path, depth = as_path(path), segmenter.protocol.depth
    image = validate_images(image, "H W 3", "image", depth)
    activations, image = compute_activations(segmenter, image), to_8_bits(image, depth)
    cell = 1
    if activations.queries is not None and 4 * activations.queries.size > _MAP_SHARE * limit_megabytes * 1e6:
        cell = smallest_cell(activations.grid, MOST_CELLS)
    page = _render(segmenter, image, activations, name or path.stem, cell, limit_megabytes)
    size = len(page.encode())
    if size > limit_megabytes * 1e6:
        raise InputError(
            f"{path}: the page takes {size / 1e6:.1f} MB, more than limit_megabytes={limit_megabytes}",
            what="limit_megabytes",
            value=limit_megabytes,
        )
    write_text(path, page)
    return Page(size, path)


class Page(int):
    """The size of a page in bytes. A notebook displays it as the page itself.

    Attributes:
      path: the file.
    """

    path: Path

    def __new__(cls, size: int, path: Path) -> Page:
        page = super().__new__(cls, size)
        page.path = path
        return page

    def _repr_html_(self) -> str:
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{content}" style="width: 100%; height: 820px; border: 0"></iframe>'


def _render(
    segmenter: Segmenter, image: np.ndarray, activations: Activations, name: str, cell: int, limit: float
) -> str:
    classes = segmenter.drawn_classes
    every = -(-max(image.shape[:2]) // LONGEST)
    height, width = image.shape[:2]
    label_maps = {
        kind: compute_labels(segmenter, activations, kind, (height, width), every)
        for kind in _LABEL_MAPS
        if kind in activations.logits
    }
    changed = {kind: float((labels != label_maps["fusion"]).mean()) for kind, labels in label_maps.items()}
    arrays = {f"labels.{kind}": labels for kind, labels in label_maps.items()}
    arrays |= _map_arrays(activations, cell) | _likely_classes(activations, cell)
    channels = None
    if activations.channel_maps:
        counts = np.bincount(label_maps["fusion"].ravel())
        frequent = [int(c) for c in np.argsort(-counts, kind="stable")[:_CLASSES_WITH_CHANNELS] if counts[c]]
        channels, channel_arrays = compute_channel_numbers(segmenter, activations, frequent)
        arrays |= channel_arrays
    rows, columns = cells(activations.grid, cell)
    facts = {
        "name": name,
        "image": {
            "height": height,
            "width": width,
            "shownHeight": -(-height // every),
            "shownWidth": -(-width // every),
        },
        # With `alignCorners`, the centres of the corner positions lie on the corners of the image.
        "grid": {
            "rows": rows,
            "columns": columns,
            "cell": cell,
            "positionRows": activations.grid[0],
            "positionColumns": activations.grid[1],
            "alignCorners": bool(segmenter.model.align_corners) and cell == 1,
        },
        "channelsPerPosition": 0 if activations.queries is None else activations.queries.shape[1],
        "classes": [
            {"name": class_name, "colour": colour}
            for class_name, colour in zip(classes.names, classes.colours, strict=True)
        ],
        "labels": [
            {"kind": kind, "title": _LABEL_MAPS[kind][0], "note": _LABEL_MAPS[kind][1], "changed": share}
            for kind, share in changed.items()
        ],
        "channels": channels,
    }
    return render_page(
        "explorer.html",
        title=f"{name}: attention",
        scripts=_SCRIPTS,
        facts=facts,
        arrays=arrays,
        name=name,
        photo=encode_photo(image, LONGEST, quality=90),
        network=_describe(segmenter.model),
        sentences=_sentences(segmenter, activations, cell, changed, limit),
        grid=activations.grid,
        size=(height, width),
        alpha=activations.alpha,
        beta=activations.beta,
        has_map=activations.queries is not None,
        has_channels=channels is not None,
        labels=[(kind, _LABEL_MAPS[kind][0], _share(share)) for kind, share in changed.items()],
        energy=segmenter.model.channel_energy,
        stride=segmenter.model.output_stride,
    )


def _sentences(
    segmenter: Segmenter, activations: Activations, cell: int, changed: dict[str, float], limit: float
) -> list[str]:
    """Returns sentences about what is special about this image and this network."""
    protocol = segmenter.protocol
    found = []
    if activations.queries is None:
        rest = "Its labels and channels are shown." if activations.channel_maps else "Its labels are shown."
        found.append(f"This network has no position attention: no position attends to any other. {rest}")
    elif activations.alpha is not None and abs(activations.alpha) < _NEARLY_ZERO:
        nearly = "is 0" if activations.alpha == 0 else f"is {activations.alpha:.2g}, nearly 0"
        found.append(
            f"Alpha {nearly}: the map below exists, but the network adds next to nothing of what it gathers. "
            f"Without position attention, {_share(changed['without_position'])} of the labels would differ."
        )
    if cell > 1:
        found.append(
            f"A page of {limit:g} MB cannot contain each of the image's {math.prod(activations.grid):,} positions. "
            f"They are pooled into cells of {cell} x {cell}: each weight shown is the exact sum over a cell's "
            "positions, averaged over the positions of the cell under the mouse."
        )
    if activations.beta is not None and abs(activations.beta) < _NEARLY_ZERO:
        found.append(f"Beta is {activations.beta:.2g}: the channel attention adds next to nothing.")
    if protocol.window or protocol.flip or protocol.scales != (1.0,):
        found.append(
            f"This network is evaluated by the protocol “{protocol.name}”. Here it sees the image once, as a whole, "
            "so labels may differ a little from its predictions."
        )
    return found


def _describe(model: DANet) -> str:
    backbone = model.backbone if isinstance(model.backbone, str) else type(model.backbone).__name__
    words = [
        describe_network(model.position_attention, model.channel_attention, backbone, model.output_stride)
    ]
    if model.multi_grid:
        words.append(f"multi-grid {', '.join(map(str, model.multi_grid))}")
    return ", ".join([*words, f"{model.num_classes} classes"])


def _map_arrays(activations: Activations, cell: int) -> dict[str, np.ndarray]:
    """Returns the page's arrays about the position attention map, which are none without position attention."""
    if activations.queries is None or activations.keys is None:
        return {}
    queries, query_scales = quantise(activations.queries)
    keys, key_scales = quantise(centre(activations.keys))
    numbers = compute_map_numbers(queries * query_scales, keys * key_scales, activations.grid, cell)
    arrays = {
        name: average_cells(getattr(numbers, name), activations.grid, cell)
        for name in ("entropy", "distance", "received")
    }
    if numbers.pooled is None:
        arrays |= {"queries": queries, "queryScales": query_scales, "keys": keys, "keyScales": key_scales}
        return arrays | {"logsumexp": numbers.logsumexp}
    scales = numbers.pooled.max(1) / np.float32(65535)
    pooled = np.rint(numbers.pooled / scales[:, None]).astype(np.uint16)
    return arrays | {"pooled": pooled, "pooledScales": scales}


def _likely_classes(activations: Activations, cell: int) -> dict[str, np.ndarray]:
    """Returns the three most probable classes of each position, and their probabilities in units of 1/65535."""
    logits = activations.logits["fusion"].reshape(activations.grid[0] * activations.grid[1], -1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = average_cells(weights / weights.sum(1, keepdims=True), activations.grid, cell)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    chosen = np.take_along_axis(probabilities, order, axis=1)
    missing = ((0, 0), (0, 3 - order.shape[1]))
    return {
        "likely": np.pad(order, missing, constant_values=255).astype(np.uint8),
        "likelihood": np.rint(np.pad(chosen, missing) * 65535).astype(np.uint16),
    }


def _share(fraction: float) -> str:
    return "none" if fraction == 0 else f"{100 * fraction:.2g} %"
