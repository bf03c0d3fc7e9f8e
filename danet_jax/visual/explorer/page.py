"""The attention explorer's page of a network and an image."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

import numpy as np

import danet_jax
from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.inference.segmenter import Segmenter, checked_images
from danet_jax.runs.files import as_path
from danet_jax.visual.explorer.numbers import (
    MapNumbers,
    Seen,
    cell_means,
    centred,
    channel_numbers,
    labels_at,
    look,
    map_numbers,
    quantised,
)
from danet_jax.visual.packing import picture_link, write_page

LONGEST = 2048
"""Pixels of the longer side of the image and of the label maps in a page."""
MOST_CELLS = 2048
"""Cells of a pooled map, all of whose weights are stored."""
_CLASSES_WITH_CHANNELS = 24
_MAP_SHARE = 0.62
"""The part of a page that queries and keys may take before they are compressed and written in base64."""
_NEARLY_ZERO = 1e-3

SCRIPTS = ("colours.js", "attention.js", "state.js", "stage.js", "panels.js", "explorer.js")

TITLES = {
    "fusion": ("Result", "both branches"),
    "position": ("Position branch", "its own classifier"),
    "channel": ("Channel branch", "its own classifier"),
    "without_position": ("Without position attention", "alpha set to 0"),
    "without_channel": ("Without channel attention", "beta set to 0"),
    "without_both": ("Without either", "alpha and beta set to 0"),
}

_BUTTONS = {
    "position": "Position branch",
    "channel": "Channel branch",
    "without_position": "Without position",
    "without_channel": "Without channel",
    "without_both": "Without both",
}
_CHANNEL_SENTENCES = {
    "official": (
        "In the channel attention every channel takes a weighted mean over all channels. By the authors' code, as "
        "here, a channel takes most from those that it resembles least."
    ),
    "paper": (
        "In the channel attention every channel takes a weighted mean over all channels. By the paper's equation 3, "
        "as here, a channel takes most from those that it resembles most."
    ),
}


def explore(
    segmenter: Segmenter,
    image: np.ndarray,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    limit_megabytes: float = 16.0,
) -> Page:
    """Writes a page that shows what each place of `image` under the mouse attends to; a browser opens it from disk.

    The page stores queries and keys, and computes any row and column of the position attention map from them, within
    1e-2 of the exact weights. It also shows what alpha and beta change, and the channel attention.

    Args:
      segmenter: a network, for example from `danet_jax.load_segmenter`.
      image: uint8 `[H, W, 3]` RGB. The network sees the whole image, once, at scale 1 of its protocol.
      path: the file to write.
      name: the page's title; by default the file's name.
      limit_megabytes: of the page; the places of larger images are pooled: the page stores exact sums of weights.

    Returns:
      The page's size in bytes, as an object that a notebook shows as the page itself.

    Raises:
      InputError: an argument has the wrong type, `image` needs more memory than is free, or the page is larger than
        the limit.
    """
    if not isinstance(segmenter, Segmenter):
        allowed = "a danet_jax.Segmenter, for example from danet_jax.load_segmenter"
        raise InputError(
            f"segmenter must be {allowed}, not {type(segmenter).__name__}", what="segmenter", allowed=allowed
        )
    path, image = as_path(path), checked_images(image, "H W 3", "image")
    seen = look(segmenter, image)
    content = _Page(segmenter, image, seen, name or path.stem)
    cell = 1
    if seen.queries is not None and 4 * seen.queries.size > _MAP_SHARE * limit_megabytes * 1e6:
        while -(-seen.grid[0] // cell) * -(-seen.grid[1] // cell) > MOST_CELLS:
            cell += 1
    size = content.write(path, cell, limit_megabytes)
    if size > limit_megabytes * 1e6:
        path.unlink()
        raise InputError(
            f"{path}: the page takes {size / 1e6:.1f} MB, more than limit_megabytes={limit_megabytes}",
            what="limit_megabytes",
            value=limit_megabytes,
        )
    return Page(size, path)


class Page(int):
    """The size of a page in bytes; as the last value of a notebook's cell it is shown as the page.

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


class _Page:
    def __init__(self, segmenter: Segmenter, image: np.ndarray, seen: Seen, name: str) -> None:
        self.segmenter, self.image, self.seen, self.name = segmenter, image, seen, name
        self.classes = segmenter.classes or Classes.named(
            [f"class {i}" for i in range(segmenter.num_classes)]
        )
        self.every = -(-max(image.shape[:2]) // LONGEST)
        size = (image.shape[0], image.shape[1])
        self.labels = {
            kind: labels_at(segmenter, seen, kind, size, self.every) for kind in TITLES if kind in seen.logits
        }

    def write(self, path: Path, cell: int, limit: float) -> int:
        seen, model = self.seen, self.segmenter.model
        numbers, of_map = _of_map(seen, cell)
        channels, of_channels = self.channels()
        arrays = {f"labels.{kind}": labels for kind, labels in self.labels.items()}
        arrays |= of_map | _likely_classes(seen, cell) | of_channels
        changed = {kind: float((x != self.labels["fusion"]).mean()) for kind, x in self.labels.items()}
        return write_page(
            path,
            "explorer.html",
            SCRIPTS,
            self.facts(cell, changed, channels),
            arrays,
            name=self.name,
            picture=picture_link(self.image, LONGEST, quality=90),
            network=describe(self.segmenter),
            sentences=self.sentences(numbers, cell, changed, limit),
            grid=seen.grid,
            size=self.image.shape[:2],
            has_map=numbers is not None,
            has_channels=channels is not None,
            alpha=seen.alpha,
            beta=seen.beta,
            label_buttons=[(kind, _BUTTONS[kind]) for kind in self.labels if kind != "fusion"],
            changes=[
                {"kind": kind, "title": TITLES[kind][0], "share": _share(changed[kind])}
                for kind in self.labels
                if kind.startswith("without")
            ],
            channel_sentence=_CHANNEL_SENTENCES[model.channel_energy],
            stride=model.output_stride,
            version=danet_jax.__version__,
        )

    def channels(self) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
        """Returns facts and arrays of the channel attention, for the most frequent classes."""
        if not self.seen.channel_maps:
            return None, {}
        counts = np.bincount(self.labels["fusion"].ravel(), minlength=256)
        shown = [int(c) for c in np.argsort(-counts, kind="stable")[:_CLASSES_WITH_CHANNELS] if counts[c]]
        return channel_numbers(self.seen, self.segmenter.model.channel_energy, shown)

    def facts(self, cell: int, changed: dict[str, float], channels: dict[str, Any] | None) -> dict[str, Any]:
        """Returns what the scripts know besides the arrays."""
        seen = self.seen
        shrunk = self.image[:: self.every, :: self.every]
        return {
            "name": self.name,
            "picture": {
                "height": self.image.shape[0],
                "width": self.image.shape[1],
                "shownHeight": shrunk.shape[0],
                "shownWidth": shrunk.shape[1],
            },
            # A cell's width in the picture, and whether centres of the corner places lie on corner pixels.
            "grid": {
                "rows": -(-seen.grid[0] // cell),
                "columns": -(-seen.grid[1] // cell),
                "cell": cell,
                "placeRows": seen.grid[0],
                "placeColumns": seen.grid[1],
                "alignCorners": bool(self.segmenter.model.align_corners) and cell == 1,
            },
            "channelsPerPlace": 0 if seen.queries is None else seen.queries.shape[1],
            "alpha": seen.alpha,
            "beta": seen.beta,
            "classes": [
                {"name": name, "colour": list(colour)}
                for name, colour in zip(self.classes.names, self.classes.colours, strict=True)
            ],
            "labels": [
                {"kind": kind, "title": TITLES[kind][0], "note": TITLES[kind][1], "changed": changed[kind]}
                for kind in self.labels
            ],
            "channels": channels,
        }

    def sentences(
        self, numbers: MapNumbers | None, cell: int, changed: dict[str, float], limit: float
    ) -> list[str]:
        """Returns sentences about what is special in this image and this network."""
        seen, protocol = self.seen, self.segmenter.protocol
        found = []
        if numbers is None:
            rest = "Its labels and channels are shown." if seen.channel_maps else "Its labels are shown."
            found.append(f"This network has no position attention: no place attends to any other. {rest}")
        elif seen.alpha is not None and abs(seen.alpha) < _NEARLY_ZERO:
            nearly = "is 0" if seen.alpha == 0 else f"is {seen.alpha:.2g}, nearly 0"
            found.append(
                f"Alpha {nearly}: the map below exists, but the network adds next to nothing of what it gathers. "
                f"Without position attention {_share(changed['without_position'])} of the labels would differ."
            )
        if cell > 1:
            places = f"{seen.grid[0] * seen.grid[1]:,}"
            found.append(
                f"The picture's {places} places are more than a page of {limit:g} MB holds one by one. They are "
                f"pooled into cells of {cell} x {cell}: each weight shown is the exact sum over a cell's places, "
                "and the mean over the places of the cell under the mouse."
            )
        if seen.beta is not None and abs(seen.beta) < _NEARLY_ZERO:
            found.append(f"Beta is {seen.beta:.2g}: the channel attention adds next to nothing.")
        if protocol.window or protocol.flip or protocol.scales != (1.0,):
            found.append(
                f"This network is evaluated by the protocol “{protocol.name}”. Here it sees the picture once, "
                "as a whole, so labels may differ a little from its predictions."
            )
        return found


def describe(segmenter: Segmenter) -> str:
    """Returns a network's description in a few words."""
    model = segmenter.model
    kind = {
        (True, True): "DANet",
        (True, False): "position attention only",
        (False, True): "channel attention only",
        (False, False): "dilated FCN, no attention",
    }[model.position_attention, model.channel_attention]
    backbone = model.backbone if isinstance(model.backbone, str) else type(model.backbone).__name__
    words = [kind, backbone.replace("resnet", "ResNet-"), f"output stride {model.output_stride}"]
    if model.multi_grid:
        words.append(f"multi-grid {', '.join(map(str, model.multi_grid))}")
    return " · ".join([*words, f"{model.num_classes} classes"])


def _of_map(seen: Seen, cell: int) -> tuple[MapNumbers | None, dict[str, np.ndarray]]:
    """Returns numbers and arrays of the position attention map."""
    if seen.queries is None or seen.keys is None:
        return None, {}
    queries, query_scales = quantised(seen.queries)
    keys, key_scales = quantised(centred(seen.keys))
    numbers = map_numbers(queries * query_scales, keys * key_scales, seen.grid, cell)
    arrays = {
        name: cell_means(getattr(numbers, name), seen.grid, cell)
        for name in ("entropy", "distance", "received")
    }
    if cell == 1:
        arrays |= {"queries": queries, "queryScales": query_scales, "keys": keys, "keyScales": key_scales}
    if numbers.pooled is None:
        return numbers, arrays | {"logsumexp": numbers.logsumexp}
    scales = numbers.pooled.max(1).astype(np.float32) / np.float32(65535)
    pooled = np.rint(numbers.pooled / scales[:, None]).astype(np.uint16)
    return numbers, arrays | {"pooled": pooled, "pooledScales": scales}


def _likely_classes(seen: Seen, cell: int) -> dict[str, np.ndarray]:
    """Returns the three most probable classes of each place, and their probabilities in units of 1/65535."""
    logits = seen.logits["fusion"].reshape(len(seen.logits["fusion"]) * seen.grid[1], -1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = cell_means(weights / weights.sum(1, keepdims=True), seen.grid, cell)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    chosen = np.take_along_axis(probabilities, order, axis=1)
    if order.shape[1] < 3:
        lacking = ((0, 0), (0, 3 - order.shape[1]))
        order, chosen = np.pad(order, lacking, constant_values=255), np.pad(chosen, lacking)
    return {
        "likely": order.astype(np.uint8),
        "likelihood": np.rint(chosen * 65535).astype(np.uint16),
    }


def _share(fraction: float) -> str:
    return "none" if fraction == 0 else f"{100 * fraction:.2g} %"
