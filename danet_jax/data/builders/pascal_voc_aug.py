"""PASCAL VOC 2012 with the extra annotations of SBD: 21 classes, 10,582 / 1,449 images.

    VOCtrainval_11-May-2012.tar    VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}
    benchmark.tgz                  benchmark_RELEASE/dataset/{cls/*.mat,train.txt,val.txt}

SBD may lie where other tools put it (`VOCaug/dataset`, `sbd`), or be converted already, as for DeepLab and PaddleSeg:

    VOCdevkit/VOC2012/SegmentationClassAug/*.png, ImageSets/Segmentation/{train_aug,trainaug,aug}.txt

For training: all images of VOC's `train` and of SBD's `train` and `val`, without those of VOC's `val`, sorted
by name, with VOC's own label where there is one. With the option `test`, also the split `test` without labels:

    VOC2012test.tar                VOCdevkit/VOC2012/{JPEGImages,ImageSets/Segmentation/test.txt}
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.finding import find
from danet_jax.data.builders.label_files import LabelFiles, mapped_mat, published_labels, same_png
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.labels import PASCAL_VOC as MAPPING
from danet_jax.errors import InputError

_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
_PARTS = ("SegmentationClass", "JPEGImages", "ImageSets/Segmentation")
_CONVERTED = "SegmentationClassAug"
_CONVERTED_LISTS = ("train_aug", "trainaug", "aug")
_SBD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"


class PascalVocAug(published.PublishedBuilder):
    """PASCAL VOC 2012 with SBD, with the option `test`."""

    name = "pascal_voc_aug"
    TITLE = "PASCAL VOC 2012 aug"
    DESCRIPTION = (
        "PASCAL VOC 2012 segmentation, its training set augmented by the Semantic Boundaries Dataset."
    )
    HOMEPAGE = f"{_VOC}/"
    LICENCE = "Images from Flickr under Flickr's terms of use; annotations free for research"
    CITATION = """@misc{pascal-voc-2012,
  author = {Everingham, M. and Van~Gool, L. and Williams, C. K. I. and Winn, J. and Zisserman, A.},
  title = {The {PASCAL} {V}isual {O}bject {C}lasses {C}hallenge 2012 {(VOC2012)} {R}esults},
  year = {2012}
}
@inproceedings{BharathICCV2011,
  author = {Hariharan, Bharath and Arbelaez, Pablo and Bourdev, Lubomir and Maji, Subhransu and Malik, Jitendra},
  title = {Semantic Contours from Inverse Detectors},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2011}
}"""
    OPTIONS: ClassVar[dict[str, Any]] = {"test": False}
    COUNTS: ClassVar[dict[str, int]] = {"train": 10582, "val": 1449, "test": 1456}
    LEAVES_OUT = True

    def variant(self) -> str:
        """Returns whether the test split is there."""
        return "aug_and_test" if self.options["test"] else "aug"

    def label_classes(self) -> Classes:
        """Returns background and the 20 classes."""
        return MAPPING.classes

    def sources(self) -> tuple[Source, ...]:
        """Returns two archives, or one folder of VOC's with SBD's labels in it; one more with `test`."""
        trainval = Source(
            "VOCtrainval_11-May-2012.tar",
            "VOC2012",
            _PARTS,
            2.0,
            f"{_VOC}/VOCtrainval_11-May-2012.tar",
            direct=True,
            digest="sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            contents=_PARTS,
        )
        sbd = Source(
            "benchmark.tgz",
            "benchmark_RELEASE/dataset",
            ("cls", "train.txt", "val.txt"),
            1.4,
            _SBD,
            direct=True,
            digest="sha256:6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
            also=("VOCaug/dataset", "sbd", "dataset"),
        )
        # The converted labels are a folder of people's own making: no archive holds it.
        parts = (_CONVERTED, *_PARTS)
        converted = dataclasses.replace(trainval, archive=_CONVERTED, parts=parts, contents=parts)
        needed: tuple[Source, ...] = (trainval, sbd)
        if find(self.root, sbd) is None and find(self.root, converted) is not None:
            needed = (converted,)
        test = Source(
            "VOC2012test.tar",
            "VOC2012",
            ("ImageSets/Segmentation/test.txt", "JPEGImages"),
            1.9,
            "http://host.robots.ox.ac.uk:8080 (free registration)",
        )
        return (*needed, test) if self.options["test"] else needed

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of the splits."""
        voc = files[0]
        labels = published_labels(MAPPING, self.palettes, in_colours=True)
        own = set(voc.lines("ImageSets/Segmentation/train.txt"))
        held_out = voc.lines("ImageSets/Segmentation/val.txt")
        if any(name.startswith(f"{_CONVERTED}/") for name in voc.names):
            more = _converted_list(voc, held_out)
            of_sbd = functools.partial(_of_voc, voc, labels, folder=_CONVERTED)
        else:
            sbd = files[1]
            more = {*sbd.lines("train.txt"), *sbd.lines("val.txt")}
            of_sbd = functools.partial(_of_sbd, voc, sbd)
        splits = {
            "train": [
                _of_voc(voc, labels, name) if name in own else of_sbd(name=name)
                for name in sorted((own | more) - set(held_out))
            ],
            "val": [_of_voc(voc, labels, name) for name in sorted(held_out)],
        }
        if self.options["test"]:
            splits["test"] = [
                published.pair_reader(name, files[-1], f"JPEGImages/{name}.jpg")
                for name in sorted(files[-1].lines("ImageSets/Segmentation/test.txt"))
            ]
        return splits


def _converted_list(voc: Files, held_out: Sequence[str]) -> set[str]:
    """The names of the training images in whichever list of them exists.

    Raises:
      InputError: There is no such list, or it names images of `held_out`.
    """
    paths = [f"ImageSets/Segmentation/{name}.txt" for name in _CONVERTED_LISTS]
    found = next((path for path in paths if path in voc), None)
    if found is None:
        raise InputError(
            f"{voc.where(_CONVERTED)}: there, but none of {', '.join(paths)}, which lists its training images; get one",
            what=voc.where(_CONVERTED),
        )
    # Some hold "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".
    names = {pathlib.PurePosixPath(line.split()[0]).stem for line in voc.lines(found)}
    if shared := sorted(names & set(held_out)):
        raise InputError(
            f"{voc.where(found)}: lists {len(shared)} images of val.txt, {shared[0]} first; get the list of 10,582",
            what=voc.where(found),
        )
    return names


def _of_voc(voc: Files, labels: LabelFiles, name: str, folder: str = "SegmentationClass") -> PairReader:
    """A palette PNG whose indices are the train ids: as it is."""
    convert = functools.partial(same_png, labels)
    return published.pair_reader(name, voc, f"JPEGImages/{name}.jpg", voc, f"{folder}/{name}.png", convert)


def _of_sbd(voc: Files, sbd: Files, name: str) -> PairReader:
    convert = functools.partial(mapped_mat, MAPPING, ("GTcls", "Segmentation"))
    return published.pair_reader(name, voc, f"JPEGImages/{name}.jpg", sbd, f"cls/{name}.mat", convert)
