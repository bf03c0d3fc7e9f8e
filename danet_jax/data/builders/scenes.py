"""The built-in data set: procedurally drawn street scenes in which distant traffic lights determine a label.

The classes are those of `danet_jax.data.scenes`. A network can distinguish `road (green light)` from `road (red light)`
only by relating the road to a lamp at the top of the image; if there are several lamps, to the one whose backboard has
the colour of the lane.
"""

from __future__ import annotations

import functools
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from danet_jax.data.builders import base
from danet_jax.data.builders.pair import Pair
from danet_jax.data.decode import encode_image, encode_label
from danet_jax.data.files import option_error
from danet_jax.data.scenes import CLASSES
from danet_jax.data.scenes.drawing import MOST_SIGNALS, draw_scene

_DEFAULTS = {"height": 96, "width": 128, "train": 400, "val": 80, "seed": 0, "signals": 1}
_RANGES = {
    "height": (32, 4096),
    "width": (32, 4096),
    "train": (1, 10**7),
    "val": (1, 10**7),
    "seed": (0, 2**32 - 1),
    "signals": (1, MOST_SIGNALS),
}


class Scenes(base.PairsBuilder):
    """Procedural street scenes, which are identical on every machine for the same options."""

    VERSION = tfds.core.Version("1.1.0")
    name = "scenes"

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        root: str | pathlib.Path | None = None,
        class_names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        """Checks the options.

        Args:
          data_dir: The directory of all prepared data.
          root: Must be empty, because scenes are drawn and not read.
          class_names: Must be empty, because scenes have their own classes.
          options: `height` and `width`: the size of the images in pixels. `train` and `val`: the number of images in
            each split. `seed`: the seed of all random numbers. `signals`: the number of traffic lights per image; a
            single one determines the label of the whole road, and with several, each lane obeys the one of its colour.

        Raises:
          InputError: An option does not exist or is out of range.
        """
        if root:
            raise option_error("root", str(root), "scenes are drawn, not read; leave it empty")
        base.refuse_class_names(self.name, class_names)
        self._options = base.check_options(self.name, options, _DEFAULTS, _RANGES)
        variant = "{height}x{width}-{train}-{val}-seed{seed}-signals{signals}".format(**self._options)
        super().__init__(data_dir=data_dir, variant=variant, classes=CLASSES)

    def pairs(self) -> dict[str, list[Callable[[], Pair]]]:
        """Returns functions that draw the scenes."""
        height, width, seed, signals = (self._options[key] for key in ("height", "width", "seed", "signals"))
        return {
            split: [
                functools.partial(_draw, height, width, seed, signals, split, index)
                for index in range(self._options[split])
            ]
            for split in ("train", "val")
        }


def _draw(height: int, width: int, seed: int, signals: int, split: str, index: int) -> Pair:
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    image, label = draw_scene(height, width, rng, signals=signals)
    name = f"{split}_{index:05d}"
    return Pair(name, encode_image(image), encode_label(label), image_file=name, label_file=name)
