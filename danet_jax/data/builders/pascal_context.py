"""PASCAL Context: fully annotated scenes of PASCAL VOC 2010, 59 classes, 4,998 training and 5,105 validation images.

    VOCtrainval_03-May-2010.tar    VOCdevkit/VOC2010/{JPEGImages,ImageSets/Main/{train,val}.txt}
    trainval.tar.gz                trainval/*.mat (459 categories), labels.txt

The conversion of mmsegmentation may replace the second:

    VOCdevkit/VOC2010/{SegmentationClassContext/*.png,ImageSets/SegmentationContext/{train,val}.txt}

With the option `background`, the pixels of the other 400 categories form a 60th class, which comes first, as in the
results of the paper; without it, they are ignored. With `by_category`, classes are numbered in the order of the 459
categories, as in networks trained with the authors' code and with mmsegmentation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from danet_jax.data import labels
from danet_jax.data.builders.archives import Files
from danet_jax.data.builders.label_files import PublishedLabels, mat_train_ids
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.builders.published import Part, PublishedBuilder

_CONVERTED = "SegmentationClassContext"


class PascalContext(PublishedBuilder):
    """PASCAL Context, with the options `background` and `by_category`."""

    name = "pascal_context"
    OPTIONS = ("background", "by_category")

    @property
    def variant(self) -> str:
        """The number of classes, and their order if it is not that of the publisher's list."""
        return f"classes{len(self.mapping.classes)}{'_by_category' if self.options['by_category'] else ''}"

    @property
    def mapping(self) -> labels.LabelMapping:
        """The mapping from the publisher's categories to 59 classes, or to 60 with `background`."""
        return self._ordered(labels.PASCAL_CONTEXT_59, labels.PASCAL_CONTEXT_60)

    def _ordered(self, without: labels.LabelMapping, background: labels.LabelMapping) -> labels.LabelMapping:
        mapping = background if self.options["background"] else without
        return mapping.in_order_of_ids() if self.options["by_category"] else mapping

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of both splits."""
        if _CONVERTED in files:
            voc, lists = files[_CONVERTED], "SegmentationContext"
            mapping = self._ordered(labels.PASCAL_CONTEXT_PNG_59, labels.PASCAL_CONTEXT_PNG_60)
            categories = Part(voc, f"{_CONVERTED}/{{}}.png", PublishedLabels(mapping).train_ids)
        else:
            voc, lists = files["VOCtrainval_03-May-2010.tar"], "Main"
            context = files["trainval.tar.gz"]
            if "labels.txt" in context:
                _check_categories(context)
            convert = functools.partial(mat_train_ids, self.mapping, ("LabelMap",))
            categories = Part(context, "trainval/{}.mat", convert)
        images = Part(voc, "JPEGImages/{}.jpg")
        return {
            split: self.readers(images, categories, voc.lines(f"ImageSets/{lists}/{split}.txt"))
            for split in ("train", "val")
        }


def _check_categories(context: Files) -> None:
    """Checks that the publisher's list gives the 59 categories the same numbers as our table."""
    names = {}
    for line in context.lines("labels.txt"):
        match = re.fullmatch(r"(\d+)\s*:\s*(.+)", line)
        if not match:
            raise context.refusal("labels.txt", f"{line!r} is not 'NUMBER: NAME'")
        names[int(match[1])] = match[2].replace(" ", "")
    for row in labels.PASCAL_CONTEXT_TABLE:
        category, expected = int(row["id"]), row["name_in_labels_txt"]
        if names.get(category) != expected:
            found = names.get(category, "missing")
            reason = f"category {category} is {found!r} where {expected!r} was published"
            raise context.refusal("labels.txt", reason)
