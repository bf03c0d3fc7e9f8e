"""PASCAL VOC 2012 with the extra annotations of SBD: 21 classes, 10,582 training and 1,449 validation images.

    VOCtrainval_11-May-2012.tar    VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}
    benchmark.tgz                  benchmark_RELEASE/dataset/{cls/*.mat,train.txt,val.txt}

SBD may be in a folder that other tools use (`VOCaug/dataset`, `sbd`), or converted as for DeepLab and PaddleSeg:

    VOCdevkit/VOC2012/SegmentationClassAug/*.png, ImageSets/Segmentation/{train_aug,trainaug,aug}.txt

The training split contains all images of VOC's `train` and of SBD's `train` and `val`, except those of VOC's `val`,
sorted by name. VOC's own labels take precedence. The option `test` adds the split `test`, which has no labels:

    VOC2012test.tar                VOCdevkit/VOC2012/{JPEGImages,ImageSets/Segmentation/test.txt}
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Set

from danet_jax.data.builders.archives import Files
from danet_jax.data.builders.label_files import PublishedLabels, mat_train_ids
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.builders.published import Part, PublishedBuilder
from danet_jax.data.labels import PASCAL_VOC
from danet_jax.errors import InputError

_LISTS = "ImageSets/Segmentation"
_CONVERTED = "SegmentationClassAug"
_CONVERTED_LISTS = tuple(f"{_LISTS}/{name}.txt" for name in ("train_aug", "trainaug", "aug"))


class PascalVocAug(PublishedBuilder):
    """PASCAL VOC 2012 with SBD, with the option `test`."""

    name = "pascal_voc_aug"
    VARIANT = "aug"
    MAPPING = PASCAL_VOC
    OPTIONS = ("test",)

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of each split."""
        voc = files.get(_CONVERTED) or files["VOCtrainval_11-May-2012.tar"]
        images = Part(voc, "JPEGImages/{}.jpg")
        convert = PublishedLabels(PASCAL_VOC, in_colours=True).train_ids
        own_labels = Part(voc, "SegmentationClass/{}.png", convert)
        own, held_out = (set(voc.lines(f"{_LISTS}/{split}.txt")) for split in ("train", "val"))
        if _CONVERTED in files:
            more = _converted_list(voc, held_out)
            more_labels = Part(voc, f"{_CONVERTED}/{{}}.png", convert)
        else:
            sbd = files["benchmark.tgz"]
            more = {*sbd.lines("train.txt"), *sbd.lines("val.txt")}
            mat_labels = functools.partial(mat_train_ids, PASCAL_VOC, ("GTcls", "Segmentation"))
            more_labels = Part(sbd, "cls/{}.mat", mat_labels)
        splits = {
            "train": [
                self.reader(name, images, own_labels if name in own else more_labels)
                for name in sorted((own | more) - held_out)
            ],
            "val": self.readers(images, own_labels, held_out),
        }
        if test := files.get("VOC2012test.tar"):
            names = test.lines(f"{_LISTS}/test.txt")
            splits["test"] = self.readers(Part(test, "JPEGImages/{}.jpg"), names=names)
        return splits


def _converted_list(voc: Files, held_out: Set[str]) -> set[str]:
    """Returns the names of the training images from the first list that exists.

    Raises:
      InputError: There is no such list, or it contains images of `held_out`.
    """
    found = next((path for path in _CONVERTED_LISTS if path in voc), None)
    if found is None:
        lists = ", ".join(_CONVERTED_LISTS)
        raise InputError.for_file(
            voc.where(_CONVERTED), f"the list of its training images is missing; get one of {lists}"
        )
    # Lines of some lists have the form "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".
    names = {pathlib.PurePosixPath(line.split()[0]).stem for line in voc.lines(found)}
    if shared := sorted(names & held_out):
        problem = f"lists {len(shared)} images of val.txt, {shared[0]} first; get the list of 10,582"
        raise InputError.for_file(voc.where(found), problem)
    return names
