"""Cityscapes: street scenes of 50 cities, 1024x2048, 19 classes; 2975 / 500 / 1525 images finely annotated.

    leftImg8bit_trainvaltest.zip    leftImg8bit/{train,val,test}/CITY/CITY_SEQ_FRAME_leftImg8bit.png
    gtFine_trainvaltest.zip         gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png

With the option `coarse`, also the split `train_extra` of 19,998 coarsely annotated images:

    leftImg8bit_trainextra.zip      leftImg8bit/train_extra/CITY/...
    gtCoarse.zip                    gtCoarse/train_extra/CITY/..._gtCoarse_labelIds.png

The label ids become the 19 train ids and 255. The test split has no labels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.label_files import LabelFiles, published_labels
from danet_jax.data.builders.pair import Pair, PairReader, Reader
from danet_jax.data.decode import decode_label, encode_label
from danet_jax.data.labels import CITYSCAPES as MAPPING
from danet_jax.data.summary import Summary
from danet_jax.errors import InputError

_PAGE = "https://www.cityscapes-dataset.com/downloads (free registration)"
_SPLITS = ("train", "val", "test")

_FROM_TRAFFIC_LIGHT = slice(6, 19)
"""Train ids of label ids from 19 on: all classes but road, sidewalk, building, wall, fence and pole."""

_AS_LABEL_IDS = (
    "without a label id above 18, are read as label ids; "
    "if they hold train ids, take the publisher's labelIds.png"
)


class Cityscapes(published.PublishedBuilder):
    """Cityscapes, with the option `coarse`."""

    name = "cityscapes"
    TITLE = "Cityscapes"
    DESCRIPTION = "Street scenes of 50 cities in Germany and nearby, annotated by pixel."
    HOMEPAGE = "https://www.cityscapes-dataset.com"
    LICENCE = "Free for non-commercial use after registration; see https://www.cityscapes-dataset.com/license"
    CITATION = """@inproceedings{Cordts2016Cityscapes,
  title = {The Cityscapes Dataset for Semantic Urban Scene Understanding},
  author = {Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo and Enzweiler, Markus and
            Benenson, Rodrigo and Franke, Uwe and Roth, Stefan and Schiele, Bernt},
  booktitle = {Proc. of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016}
}"""
    OPTIONS: ClassVar[dict[str, Any]] = {"coarse": False}
    COUNTS: ClassVar[dict[str, int]] = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}

    def variant(self) -> str:
        """Returns which annotations are prepared."""
        return "fine_and_coarse" if self.options["coarse"] else "fine"

    def label_classes(self) -> Classes:
        """Returns the 19 classes that are evaluated."""
        return MAPPING.classes

    def sources(self) -> tuple[Source, ...]:
        """Returns two archives, or four with `coarse`."""
        fine = (
            Source("leftImg8bit_trainvaltest.zip", "leftImg8bit", _SPLITS, 11.6, _PAGE, any_part=True),
            Source("gtFine_trainvaltest.zip", "gtFine", _SPLITS, 0.25, _PAGE, any_part=True),
        )
        coarse = (
            Source("leftImg8bit_trainextra.zip", "leftImg8bit", ("train_extra",), 47, _PAGE),
            Source("gtCoarse.zip", "gtCoarse", ("train_extra",), 1.3, _PAGE),
        )
        return fine + coarse if self.options["coarse"] else fine

    def wrong_with(self, split: str, summary: Summary) -> str:
        """Reports that a complete split holds train ids: every published one shows sky, plants and cars."""
        partial = self.options["allow_partial"] or not summary.labelled
        if partial or summary.present[_FROM_TRAFFIC_LIGHT].any():
            return ""
        return (
            f"{self.name}: the labels of {split} hold no label id above 18, as if they were train ids; take the "
            "publisher's labelIds.png, or, if it is so, set dataset.options.allow_partial=True"
        )

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of the splits."""
        images, fine = files[:2]
        labels = published_labels(MAPPING, self.palettes)
        there = {name.partition("/")[0] for name in images.names}
        partial = self.options["allow_partial"]
        if not partial and "test" not in there and {"train", "val"} <= there:
            raise InputError(
                f"{images.where('test')}: missing, the images of the test split, which mmsegmentation's folders lack "
                "as well; get them, or set dataset.options.allow_partial=True to prepare the others",
                what=images.where("test"),
            )
        splits = {
            split: _labelled(images, fine, labels, split, "gtFine", partial)
            for split in ("train", "val")
            if split in there or not partial
        }
        if "test" in there or not partial:
            splits["test"] = [
                published.pair_reader(name.rpartition("/")[2], images, path)
                for name, path in published.below(images, "test", "_leftImg8bit.png").items()
            ]
        if self.options["coarse"]:
            splits["train_extra"] = _labelled(files[2], files[3], labels, "train_extra", "gtCoarse", partial)
        return splits


def _train_ids(files: LabelFiles, data: bytes, name: str) -> bytes:
    ids = files.read(data, name).values
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    if present[-1] == IGNORE_LABEL and (present[:-1] < len(MAPPING.classes)).all():
        # 255 is a licence plate here, which is on a car, whose label id is larger.
        raise InputError(
            f"{name}: holds train ids (255 and none above {len(MAPPING.classes) - 1}), not label ids; use the "
            "publisher's labelIds.png",
            what=name,
        )
    return encode_label(MAPPING.to_train_ids(ids, name))


def _read_noting(reader: Reader) -> Pair:
    """Reads an example, and notes where label ids cannot be told from train ids."""
    pair = reader()
    assert pair.label is not None
    present = np.bincount(decode_label(pair.label, pair.label_file).ravel(), minlength=256)
    if present[_FROM_TRAFFIC_LIGHT].any():
        return pair
    return dataclasses.replace(pair, assumed=(*pair.assumed, _AS_LABEL_IDS))


def _labelled(
    images: Files, labels: Files, label_files: LabelFiles, split: str, kind: str, partial: bool
) -> list[PairReader]:
    suffix = f"_{kind}_labelIds.png"
    found = published.below(images, split, "_leftImg8bit.png")
    convert = functools.partial(_train_ids, label_files)
    label_names = published.below(labels, split, suffix)
    if partial:  # whole cities may be left out
        cities = {name.partition("/")[0] for name in found}
        label_names = {name: path for name, path in label_names.items() if name.partition("/")[0] in cities}
    orphans = published.orphans(found, label_names, labels)
    readers: list[PairReader] = [
        published.pair_reader(
            name.rpartition("/")[2], images, path, labels, f"{split}/{name}{suffix}", convert
        )
        for name, path in found.items()
    ]
    noting = [
        Reader(functools.partial(_read_noting, reader), reader.size) if isinstance(reader, Reader) else reader
        for reader in readers
    ]
    return [*orphans, *noting]
