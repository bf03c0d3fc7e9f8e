"""ADE20K scene parsing: 150 classes, 20,210 / 2,000 images of any kind of scene.

    ADEChallengeData2016.zip    ADEChallengeData2016/{images,annotations}/{training,validation}/

With the option `test`, also the split `test` without labels:

    release_test.zip            release_test/testing/*.jpg
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import published
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.label_files import mapped_png, published_labels
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.labels import ADE20K as MAPPING

_URL = "http://data.csail.mit.edu/places/ADEchallenge"
_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(published.PublishedBuilder):
    """ADE20K scene parsing, with the option `test`."""

    name = "ade20k"
    TITLE = "ADE20K"
    DESCRIPTION = (
        "The scene parsing benchmark of ADE20K: 150 classes of things and stuff in all kinds of scenes."
    )
    HOMEPAGE = "http://sceneparsing.csail.mit.edu"
    LICENCE = "Annotations BSD-3-Clause; images for non-commercial research and education"
    CITATION = """@inproceedings{zhou2017scene,
  title = {Scene Parsing through ADE20K Dataset},
  author = {Zhou, Bolei and Zhao, Hang and Puig, Xavier and Fidler, Sanja and Barriuso, Adela and Torralba, Antonio},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2017}
}"""
    OPTIONS: ClassVar[dict[str, Any]] = {"test": False}
    COUNTS: ClassVar[dict[str, int]] = {"train": 20210, "val": 2000}
    LEAVES_OUT = True

    def variant(self) -> str:
        """Returns whether the test split is there."""
        return "scene_parsing_and_test" if self.options["test"] else "scene_parsing"

    def label_classes(self) -> Classes:
        """Returns the 150 classes."""
        return MAPPING.classes

    def sources(self) -> tuple[Source, ...]:
        """Returns one archive, or two with `test`."""
        trainval = Source(
            "ADEChallengeData2016.zip",
            "ADEChallengeData2016",
            ("annotations", "images"),
            0.97,
            f"{_URL}/ADEChallengeData2016.zip",
            direct=True,
            digest="md5:7328b3957e407ddae1d3cbf487f149ef",
            contents=("annotations/training", "images/training"),
        )
        test = Source("release_test.zip", "release_test", ("testing",), 0.2, f"{_URL}/release_test.zip", True)
        return (trainval, test) if self.options["test"] else (trainval,)

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of the splits."""
        archive = files[0]
        labels = published_labels(MAPPING, self.palettes)
        convert = functools.partial(mapped_png, MAPPING, labels)
        splits = {
            split: published.paired(
                *((archive, f"images/{folder}"), (archive, f"annotations/{folder}")),
                convert,
                partial=self.options["allow_partial"],
            )
            for split, folder in _FOLDERS.items()
        }
        if self.options["test"]:
            splits["test"] = [
                published.pair_reader(name, files[1], path)
                for name, path in published.below(files[1], "testing", ".jpg").items()
            ]
        return splits
