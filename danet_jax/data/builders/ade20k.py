"""ADE20K scene parsing: 150 classes, 20,210 training and 2,000 validation images of any kind of scene.

    ADEChallengeData2016.zip    ADEChallengeData2016/{images,annotations}/{training,validation}/

The option `test` adds the split `test`, which has no labels:

    release_test.zip            release_test/testing/*.jpg
"""

from __future__ import annotations

from collections.abc import Mapping

from danet_jax.data.builders.archives import Files
from danet_jax.data.builders.label_files import PublishedLabels
from danet_jax.data.builders.pair import PairReader
from danet_jax.data.builders.published import Part, PublishedBuilder
from danet_jax.data.labels import ADE20K


class Ade20k(PublishedBuilder):
    """ADE20K scene parsing, with the option `test`."""

    name = "ade20k"
    VARIANT = "scene_parsing"
    MAPPING = ADE20K
    OPTIONS = ("test",)

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of each split."""
        archive, convert = files["ADEChallengeData2016.zip"], PublishedLabels(ADE20K).train_ids
        splits = {
            split: self.readers(
                Part(archive, f"images/{folder}/{{}}.jpg"),
                Part(archive, f"annotations/{folder}/{{}}.png", convert),
            )
            for split, folder in (("train", "training"), ("val", "validation"))
        }
        if "release_test.zip" in files:
            splits["test"] = self.readers(Part(files["release_test.zip"], "testing/{}.jpg"))
        return splits
