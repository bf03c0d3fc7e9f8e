"""PASCAL Context: whole scenes of PASCAL VOC 2010, 59 classes, 4,998 / 5,105 images.

    VOCtrainval_03-May-2010.tar    VOCdevkit/VOC2010/{JPEGImages,ImageSets/Main/{train,val}.txt}
    trainval.tar.gz                trainval/*.mat (459 categories), labels.txt

mmsegmentation's conversion will do for the second:

    VOCdevkit/VOC2010/{SegmentationClassContext/*.png,ImageSets/SegmentationContext/{train,val}.txt}

With the option `background` the pixels of the other 400 categories are a 60th class, the first, as in the
figures that the paper reports; without, they are ignored. With `by_category` classes are numbered in the order of the
459, which is that of networks of the authors' code and of mmsegmentation.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from danet_jax.classes import Classes
from danet_jax.data import labels
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.finding import find
from danet_jax.data.builders.label_files import mapped_mat, mapped_png, published_labels
from danet_jax.data.builders.pair import PairReader

_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar"
_CONTEXT = "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz"

_CONVERTED = "SegmentationClassContext"


class PascalContext(published.PublishedBuilder):
    """PASCAL Context, with the options `background` and `by_category`."""

    name = "pascal_context"
    TITLE = "PASCAL Context"
    DESCRIPTION = (
        "The images of PASCAL VOC 2010 train and val, every pixel annotated; the 59 most frequent categories."
    )
    HOMEPAGE = "https://www.cs.stanford.edu/~roozbeh/pascal-context/"
    LICENCE = "Images from Flickr under Flickr's terms of use; annotations free for research"
    CITATION = """@inproceedings{mottaghi_cvpr14,
  author = {Mottaghi, Roozbeh and Chen, Xianjie and Liu, Xiaobai and Cho, Nam-Gyu and Lee, Seong-Whan and
            Fidler, Sanja and Urtasun, Raquel and Yuille, Alan},
  title = {The Role of Context for Object Detection and Semantic Segmentation in the Wild},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2014}
}"""
    OPTIONS: ClassVar[dict[str, Any]] = {"background": False, "by_category": False}
    COUNTS: ClassVar[dict[str, int]] = {"train": 4998, "val": 5105}

    def _mapping(self, *, converted: bool = False) -> labels.LabelMapping:
        """The mapping of the publisher's categories, or of mmsegmentation's PNGs."""
        if self.options["background"]:
            mapping = labels.PASCAL_CONTEXT_PNG_60 if converted else labels.PASCAL_CONTEXT_60
        else:
            mapping = labels.PASCAL_CONTEXT_PNG_59 if converted else labels.PASCAL_CONTEXT_59
        return mapping.in_order_of_ids() if self.options["by_category"] else mapping

    def variant(self) -> str:
        """Returns the number of classes, and their order if it is not the list's."""
        order = "_by_category" if self.options["by_category"] else ""
        return f"classes{len(self.label_classes())}{order}"

    def label_classes(self) -> Classes:
        """Returns 59 classes, or 60 with `background`."""
        return self._mapping().classes

    def sources(self) -> tuple[Source, ...]:
        """Returns the two archives, or the one folder that holds the converted labels as well."""
        voc = Source(
            "VOCtrainval_03-May-2010.tar",
            "VOC2010",
            ("JPEGImages", "ImageSets/Main"),
            1.3,
            _VOC,
            direct=True,
            digest="md5:da459979d0c395079b5c75ee67908abb",
        )
        context = Source(
            "trainval.tar.gz",
            "",
            ("trainval", "labels.txt"),
            0.03,
            _CONTEXT,
            direct=True,
            digest="md5:df034edb2c12aa7d33b42b20bb1796e3",
        )
        parts = (_CONVERTED, "JPEGImages", "ImageSets/SegmentationContext")
        converted = dataclasses.replace(voc, archive=_CONVERTED, parts=parts)
        if find(self.root, context) is None and find(self.root, converted) is not None:
            return (converted,)
        return voc, context

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of both splits."""
        if len(files) == 1:
            return self._read_converted(files[0])
        voc, context = files
        if "labels.txt" in context:
            _check_categories(context)
        convert = functools.partial(mapped_mat, self._mapping(), ("LabelMap",))
        return _listed(voc, "Main", context, "trainval/{}.mat", convert)

    def _read_converted(self, voc: Files) -> Mapping[str, list[PairReader]]:
        mapping = self._mapping(converted=True)
        convert = functools.partial(mapped_png, mapping, published_labels(mapping, self.palettes))
        return _listed(voc, "SegmentationContext", voc, f"{_CONVERTED}/{{}}.png", convert)


def _listed(
    voc: Files, lists: str, labels: Files, label: str, convert: Callable[..., bytes]
) -> Mapping[str, list[PairReader]]:
    """Readers of VOC's images in its lists for a task, with what is called `label` of the same name."""
    return {
        split: [
            published.pair_reader(name, voc, f"JPEGImages/{name}.jpg", labels, label.format(name), convert)
            for name in sorted(voc.lines(f"ImageSets/{lists}/{split}.txt"))
        ]
        for split in ("train", "val")
    }


def _check_categories(context: Files) -> None:
    """Check that the publisher's list numbers the 59 categories as our table does."""
    names = {}
    for line in context.lines("labels.txt"):
        match = re.fullmatch(r"(\d+)\s*:\s*(.+)", line)
        if not match:
            raise context.refused("labels.txt", f"{line!r} is not 'NUMBER: NAME'")
        names[int(match[1])] = match[2].replace(" ", "")
    for row in labels.PASCAL_CONTEXT_TABLE:
        category, expected = int(row["id"]), row["name_in_labels_txt"]
        if names.get(category) != expected:
            found = names.get(category, "missing")
            reason = f"category {category} is {found!r} where {expected!r} was published"
            raise context.refused("labels.txt", reason)
