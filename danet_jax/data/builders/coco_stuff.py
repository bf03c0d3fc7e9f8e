"""COCO Stuff: 171 thing and stuff classes, annotated on 10,000 images of COCO 2014 or on all of COCO 2017.

COCO Stuff 10k has 9,000 training and 1,000 validation images:

    cocostuff-10k-v1.1.zip    images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt

The publisher's `test` is labelled and commonly used for validation, so it becomes the split `val`. Version 1.0 is
supported as well. It numbers the classes in the same order from 2, without the ids that COCO never used; 1 stands for
unlabelled. Each label file lists its classes: 172 including `unlabeled` in version 1.0, and 182 without it in 1.1.

COCO Stuff 164k has 118,287 training and 5,000 validation images:

    train2017.zip, val2017.zip           images/{train2017,val2017}/*.jpg
    stuffthingmaps_trainval2017.zip      annotations/{train2017,val2017}/*.png

The folders are those of mmsegmentation, whose converted `*_labelTrainIds.png` are used if the publisher's PNGs are
missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping

from danet_jax.classes import IGNORE_LABEL
from danet_jax.data.builders.archives import Files
from danet_jax.data.builders.label_files import PublishedLabels, mat_train_ids
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.builders.published import Part, PublishedBuilder
from danet_jax.data.labels import COCO_STUFF, COCO_STUFF_PNG

_CONVERTED = "_labelTrainIds"
_VERSION_1_0 = dataclasses.replace(COCO_STUFF, ids=tuple(range(2, 173)), others=frozenset({0, 1}))
_TRAIN_IDS = dataclasses.replace(COCO_STUFF, ids=tuple(range(171)), others=frozenset({IGNORE_LABEL}))


class CocoStuff10k(PublishedBuilder):
    """COCO Stuff 10k."""

    name = "coco_stuff10k"
    VARIANT = "v1_1"
    MAPPING = COCO_STUFF

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of both splits."""
        [archive] = files.values()
        images, labels = Part(archive, "images/{}.jpg"), Part(archive, "annotations/{}.mat", _mat_train_ids)
        return {
            split: self.readers(images, labels, archive.lines(f"imageLists/{published}.txt"))
            for split, published in (("train", "train"), ("val", "test"))
        }


def _mat_train_ids(data: bytes, name: str) -> bytes:
    """Returns a PNG of train ids from a label file of either version."""
    import scipy.io

    count = 0
    with contextlib.suppress(Exception):  # `mat_train_ids` reports a damaged file.
        count = scipy.io.loadmat(io.BytesIO(data), variable_names=["names"])["names"].size
    return mat_train_ids(_VERSION_1_0 if count == 172 else COCO_STUFF, ("S",), data, name)


class CocoStuff164k(PublishedBuilder):
    """COCO Stuff on COCO 2017."""

    name = "coco_stuff164k"
    VARIANT = "coco2017"
    MAPPING = COCO_STUFF

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of both splits."""
        maps = files["stuffthingmaps_trainval2017.zip"]
        convert, train_ids = PublishedLabels(COCO_STUFF_PNG).train_ids, PublishedLabels(_TRAIN_IDS).train_ids
        splits = {}
        for split in ("train", "val"):
            folder = f"{split}2017"
            images = Part(files[f"{folder}.zip"], f"{folder}/{{}}.jpg")
            labels = Part(maps, f"{folder}/{{}}.png", convert)
            names = {name for name in labels.names() if not name.endswith(_CONVERTED)}
            if not names:
                labels = Part(maps, f"{folder}/{{}}{_CONVERTED}.png", train_ids)
                names = labels.names()
            splits[split] = self.readers(images, labels, images.names() | names)
        return splits
