"""The built-in data set: procedurally drawn street scenes in which distant traffic lights determine a label.

The classes are those of `danet_jax.data.scenes`. A network can distinguish `road (green light)` from `road (red light)`
only by relating the road to a lamp at the top of the image; if there are several lamps, to the one whose backboard has
the colour of the lane.
"""

from __future__ import annotations

import functools
import pathlib
import zlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from danet_jax.data.builders import base
from danet_jax.data.builders.pair import Pair
from danet_jax.data.decode import encode_image, encode_label
from danet_jax.data.files import option_error
from danet_jax.data.scenes import CLASSES
from danet_jax.data.scenes.drawing import MOST_SIGNALS, draw_scene


class Scenes(base.PairsBuilder):
    """Procedural street scenes, which are identical on every machine for the same options.

    The options are: `height` and `width`: the size of the images in pixels. `train` and `val`: the number of images in
    each split. `seed`: the seed of all random numbers. `signals`: the number of traffic lights per image; a single one
    determines the label of the whole road, and with several, each lane obeys the one of its colour.
    """

    VERSION = tfds.core.Version("1.1.0")
    ALLOWED: ClassVar = {
        "height": (32, 4096),
        "width": (32, 4096),
        "train": (1, 10**7),
        "val": (1, 10**7),
        "seed": (0, 2**32 - 1),
        "signals": (1, MOST_SIGNALS),
    }
    name = "scenes"
    defaults: ClassVar = {"height": 96, "width": 128, "train": 400, "val": 80, "seed": 0, "signals": 1}

    def configure(
        self, data_dir: pathlib.Path, root: str | pathlib.Path | None, class_names: tuple[str, ...]
    ) -> base.Preparation:
        """Chooses the preparation, which depends on the options only."""
        del data_dir
        if root:
            raise option_error("root", str(root), "scenes are drawn, not read; leave it empty")
        self.refuse_class_names(class_names)
        variant = "{height}x{width}-{train}-{val}-seed{seed}-signals{signals}".format(**self.options)
        return base.Preparation(variant, CLASSES)

    def pairs(self) -> dict[str, list[Callable[[], Pair]]]:
        """Returns functions that draw the scenes."""
        height, width, seed, signals = (self.options[key] for key in ("height", "width", "seed", "signals"))
        return {
            split: [
                functools.partial(_draw, height, width, seed, signals, split, index)
                for index in range(self.options[split])
            ]
            for split in ("train", "val")
        }


def _draw(height: int, width: int, seed: int, signals: int, split: str, index: int) -> Pair:
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    image, label = draw_scene(height, width, rng, signals=signals)
    name = f"{split}_{index:05d}"
    return Pair(name, encode_image(image), encode_label(label), image_file=name, label_file=name)
