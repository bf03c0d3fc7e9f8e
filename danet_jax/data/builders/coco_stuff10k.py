"""COCO Stuff 10k, version 1.1: 10,000 images of COCO, 171 classes of things and stuff, 9,000 / 1,000.

    cocostuff-10k-v1.1.zip    images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt

The publisher's `test` is labelled and is what everyone validates on: it is the split `val` here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.label_files import mapped_mat
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.labels import COCO_STUFF as MAPPING

_LISTS = {"train": "imageLists/train.txt", "val": "imageLists/test.txt"}


class CocoStuff10k(published.PublishedBuilder):
    """COCO Stuff 10k."""

    name = "coco_stuff10k"
    TITLE = "COCO Stuff 10k"
    DESCRIPTION = "10,000 images of COCO 2014 train with 80 thing and 91 stuff classes annotated by pixel."
    HOMEPAGE = "https://github.com/nightrome/cocostuff10k"
    LICENCE = "Annotations CC BY 4.0; images from Flickr under Flickr's terms of use"
    CITATION = """@inproceedings{caesar2018cvpr,
  title = {COCO-Stuff: Thing and stuff classes in context},
  author = {Caesar, Holger and Uijlings, Jasper and Ferrari, Vittorio},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2018}
}"""
    COUNTS: ClassVar[dict[str, int]] = {"train": 9000, "val": 1000}

    def variant(self) -> str:
        """Return the version."""
        return "v1_1"

    def label_classes(self) -> Classes:
        """Return the 171 classes that occur."""
        return MAPPING.classes

    def sources(self) -> tuple[Source, ...]:
        """Return the one archive."""
        url = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip"
        parts = ("imageLists", "images", "annotations")
        return (Source("cocostuff-10k-v1.1.zip", "", parts, 2.0, url, direct=True),)

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Return the readers of both splits."""
        [archive] = files
        convert = functools.partial(mapped_mat, MAPPING, ("S",))
        return {
            split: [
                published.pair_reader(
                    name, archive, f"images/{name}.jpg", archive, f"annotations/{name}.mat", convert
                )
                for name in sorted(archive.lines(path))
            ]
            for split, path in _LISTS.items()
        }
