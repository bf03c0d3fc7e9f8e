"""COCO Stuff: all of COCO 2017, 171 classes of things and stuff, 118,287 / 5,000 images.

    train2017.zip, val2017.zip           images/{train2017,val2017}/*.jpg
    stuffthingmaps_trainval2017.zip      annotations/{train2017,val2017}/*.png

The folders are mmsegmentation's, whose converted `*_labelTrainIds.png` are taken where the publisher's PNGs are not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.coco_stuff10k import CocoStuff10k
from danet_jax.data.builders.label_files import Palettes, grey_labels, mapped_png, published_labels, same_png
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.labels import COCO_STUFF as MAPPING
from danet_jax.data.labels import COCO_STUFF_PNG as PNG_MAPPING

_FOLDERS = {"train": "train2017", "val": "val2017"}
_CONVERTED = "_labelTrainIds"


class CocoStuff164k(published.PublishedBuilder):
    """COCO Stuff on COCO 2017."""

    name = "coco_stuff164k"
    TITLE = "COCO Stuff 164k"
    DESCRIPTION = "COCO 2017 train and val with 80 thing and 91 stuff classes annotated by pixel."
    HOMEPAGE = "https://github.com/nightrome/cocostuff"
    LICENCE = "Annotations CC BY 4.0; images from Flickr under Flickr's terms of use"
    CITATION = CocoStuff10k.CITATION
    COUNTS: ClassVar[dict[str, int]] = {"train": 118287, "val": 5000}
    LEAVES_OUT = True

    def variant(self) -> str:
        """Returns the year of the images."""
        return "coco2017"

    def label_classes(self) -> Classes:
        """Returns the 171 classes that occur."""
        return MAPPING.classes

    def sources(self) -> tuple[Source, ...]:
        """Returns the archives of the images, and that of the labels."""
        images = "http://images.cocodataset.org/zips"
        return (
            Source(
                "train2017.zip", "images", ("train2017",), 19.3, f"{images}/train2017.zip", True, also=("",)
            ),
            Source("val2017.zip", "images", ("val2017",), 0.82, f"{images}/val2017.zip", True, also=("",)),
            Source(
                "stuffthingmaps_trainval2017.zip",
                "annotations",
                tuple(_FOLDERS.values()),
                0.69,
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
                True,
                also=("stuffthingmaps", "stuffthingmaps_trainval2017"),
            ),
        )

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of both splits."""
        labels = files[-1]
        return {
            split: _labelled(images, labels, folder, self.palettes, self.options["allow_partial"])
            for images, (split, folder) in zip(files[:-1], _FOLDERS.items(), strict=True)
        }


def _labelled(
    images: Files, labels: Files, folder: str, palettes: Palettes, partial: bool
) -> list[PairReader]:
    drawn = published.below(labels, folder, ".png", partial=partial)
    paired = functools.partial(published.paired, (images, folder), (labels, folder), partial=partial)
    if drawn and all(name.endswith(_CONVERTED) for name in drawn):
        train_ids = set(range(len(MAPPING.classes))) | {255}
        return paired(
            functools.partial(same_png, grey_labels(train_ids, palettes)), suffix=f"{_CONVERTED}.png"
        )
    convert = functools.partial(mapped_png, PNG_MAPPING, published_labels(PNG_MAPPING, palettes))
    return paired(convert, others=_CONVERTED)
