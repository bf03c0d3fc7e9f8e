"""COCO Stuff 10k: 10,000 images of COCO, 171 classes of things and stuff, 9,000 / 1,000.

    cocostuff-10k-v1.1.zip    images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt

The publisher's `test` is labelled and is what everyone validates on: it is the split `val` here. Version 1.0 is read
as well: it numbers the classes in the same order, but without the ids that COCO never drew, and after 1 for unlabelled.
Each label file lists its classes, 172 with `unlabeled` in version 1.0 and 182 without it in version 1.1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping
from typing import ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.finding import find
from danet_jax.data.builders.label_files import mapped_mat
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.labels import COCO_STUFF as MAPPING

_MAPPING_1_0 = dataclasses.replace(MAPPING, ids=tuple(range(2, 173)), others=frozenset({0, 1}))
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
    LEAVES_OUT = True

    def variant(self) -> str:
        """Returns the version whose classes these are."""
        return "v1_1"

    def label_classes(self) -> Classes:
        """Returns the 171 classes that occur."""
        return MAPPING.classes

    def sources(self) -> tuple[Source, ...]:
        """Returns the one archive."""
        url = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip"
        parts = ("imageLists", "images", "annotations")
        latest = Source("cocostuff-10k-v1.1.zip", "", parts, 2.0, url, direct=True)
        former = dataclasses.replace(latest, archive="cocostuff-10k-v1.0.zip")
        return (latest if find(self.root, latest) or not find(self.root, former) else former,)

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of both splits."""
        [archive] = files
        return {
            split: [
                published.pair_reader(
                    name, archive, f"images/{name}.jpg", archive, f"annotations/{name}.mat", _train_ids
                )
                for name in sorted(archive.lines(path))
            ]
            for split, path in _LISTS.items()
        }


def _train_ids(data: bytes, name: str) -> bytes:
    """A PNG of train ids from a label file of either version."""
    import scipy.io

    count = 0
    with contextlib.suppress(Exception):  # of a damaged file, which the next line names
        count = scipy.io.loadmat(io.BytesIO(data), variable_names=["names"])["names"].size
    return mapped_mat(MAPPING if count != 172 else _MAPPING_1_0, ("S",), data, name)
