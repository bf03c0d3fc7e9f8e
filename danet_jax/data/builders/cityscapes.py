"""Cityscapes: street scenes of 50 cities, 1024x2048, 19 classes, 2,975 / 500 / 1,525 finely annotated images.

    leftImg8bit_trainvaltest.zip    leftImg8bit/{train,val,test}/CITY/CITY_SEQ_FRAME_leftImg8bit.png
    gtFine_trainvaltest.zip         gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png

The option `coarse` adds the split `train_extra` of 19,998 coarsely annotated images:

    leftImg8bit_trainextra.zip      leftImg8bit/train_extra/CITY/...
    gtCoarse.zip                    gtCoarse/train_extra/CITY/..._gtCoarse_labelIds.png

Label ids are converted to the 19 train ids and 255. The test split has no labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from danet_jax.classes import IGNORE_LABEL
from danet_jax.data.builders.archives import Files
from danet_jax.data.builders.label_files import LabelFile, PublishedLabels
from danet_jax.data.builders.pair import Pair, PairReader
from danet_jax.data.builders.published import Part, PublishedBuilder
from danet_jax.data.decode import decode_label
from danet_jax.data.labels import CITYSCAPES
from danet_jax.data.summary import Summary
from danet_jax.errors import InputError

_ABOVE_18 = slice(CITYSCAPES.ids.index(19), len(CITYSCAPES.ids))
"""Train ids of the classes with label ids above 18, from traffic light on; no train id is that large."""

_AS_LABEL_IDS = (
    "without a label id above 18, are read as label ids; "
    "if they contain train ids, take the publisher's labelIds.png"
)


class Cityscapes(PublishedBuilder):
    """Cityscapes, with the option `coarse`."""

    name = "cityscapes"
    VARIANT = "fine"
    MAPPING = CITYSCAPES
    OPTIONS = ("coarse",)

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of each split."""
        convert = _Labels(CITYSCAPES).train_ids
        images, fine = files["leftImg8bit_trainvaltest.zip"], files["gtFine_trainvaltest.zip"]
        splits = {
            split: self.readers(
                Part(images, f"{split}/{{}}_leftImg8bit.png"),
                Part(fine, f"{split}/{{}}_gtFine_labelIds.png", convert),
            )
            for split in ("train", "val")
        }
        splits["test"] = self.readers(Part(images, "test/{}_leftImg8bit.png"))
        if self.options["coarse"]:
            splits["train_extra"] = self.readers(
                Part(files["leftImg8bit_trainextra.zip"], "train_extra/{}_leftImg8bit.png"),
                Part(files["gtCoarse.zip"], "train_extra/{}_gtCoarse_labelIds.png", convert),
            )
        return splits

    def finish(self, pair: Pair) -> Pair:
        """Removes the city from an example's name and records whether its label ids may be train ids."""
        pair = dataclasses.replace(pair, name=pair.name.rpartition("/")[2])
        if pair.label is None:
            return pair
        present = np.bincount(decode_label(pair.label, pair.label_file).ravel(), minlength=256)
        noted = () if present[_ABOVE_18].any() else (_AS_LABEL_IDS,)
        return dataclasses.replace(pair, assumed=(*pair.assumed, *noted))

    def split_error(self, split: str, summary: Summary) -> InputError | None:
        """Refuses a complete split that contains train ids: every published split shows vegetation, sky and cars."""
        partial = self.options["allow_partial"] or not summary.labelled
        if partial or summary.present[_ABOVE_18].any():
            return None
        return InputError.for_file(
            self.name,
            f"the labels of {split} contain no label id above 18, as if they were train ids; take the publisher's "
            "labelIds.png, or, if the images really show none, set dataset.options.allow_partial=True",
        )


class _Labels(PublishedLabels):
    """Refuses files of train ids: as a label id, 255 is a licence plate, which occurs only on cars (label id 26)."""

    def read(self, data: bytes, name: str) -> LabelFile:
        found = super().read(data, name)
        present = np.unique(found.values)
        if present[-1] == IGNORE_LABEL and (present[:-1] < len(CITYSCAPES.classes)).all():
            largest = len(CITYSCAPES.classes) - 1
            problem = f"contains train ids (255 and none above {largest}), not label ids"
            raise InputError.for_file(name, f"{problem}; use the publisher's labelIds.png")
        return found
