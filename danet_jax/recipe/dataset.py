"""`config.dataset`: which data, and how they are cropped."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from danet_jax.data.dataset import DATASET_NAMES
from danet_jax.recipe.kinds import Check, Group, Name, Names, Side, Text, Words


def _is_plain(options: dict[str, Any]) -> bool:
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _are_pairs(pairs: tuple[str, ...]) -> bool:
    return all(len(sides) == 2 and all(sides) for sides in (pair.split("=") for pair in pairs))


_ON_DISK = Check(
    lambda place: "://" not in place,
    "a directory: archives and prepared data are read from a file system, a disk of each host or a mounted bucket",
)


class DatasetOptions(Group):
    """Which data, and how they are cropped."""

    name: Annotated[str, Names(DATASET_NAMES)] = Field("cityscapes", description="The data set.")
    root: Annotated[Text, _ON_DISK] = Field(
        "", description="Where its published archives or your own files are; the data set `scenes` has none."
    )
    data_dir: Annotated[Name, _ON_DISK] = Field("data", description="Where prepared data are kept.")
    class_names: Words = Field(
        (), description="Classes of a `folder` that has no classes.csv, in order of labels."
    )
    options: Annotated[
        dict[str, Any], Check(_is_plain, "names with values: text, finite numbers, booleans, lists of them")
    ] = Field(
        {},
        description="Options of the data set itself, see docs/datasets.md; a recipe names those that exist.",
    )
    train_split: Name = Field("train", description="The split that is trained on.")
    validation_split: Name = Field("val", description="The split that is evaluated on.")
    test_split: Name = Field("test", description="The split of --mode=submit.")
    base_size: Side = Field(
        1024,
        description="Pixels of the short side before a crop is taken; with random_scale times 0.5 to 2.",
    )
    crop_size: Side = Field(768, description="Pixels of the sides of a crop, at least the output stride.")
    random_scale: bool = Field(True, description="Whether training scales images at random by 0.5 to 2.")
    flip: bool = Field(
        True,
        description="Whether training mirrors images at random. Off where classes mean a side: then evaluation "
        "mirrors none, either.",
    )
    flip_pairs: Annotated[
        Words, Check(_are_pairs, "pairs of classes that a mirror swaps, each LEFT=RIGHT")
    ] = Field(
        (),
        description="Classes that a mirror makes of each other, as `left lane=right lane`: swapped in training, and "
        "in the scores of mirrored images.",
    )
    photometric: bool = Field(
        False,
        description="Whether training changes brightness, contrast, saturation and hue at random, as "
        "mmsegmentation does; the paper does not.",
    )
    classes_by_number: bool = Field(
        False,
        description="Whether a network whose classes have other names than the data's is evaluated all the same.",
    )
    workers: int = Field(
        4, ge=0, le=256, description="Processes that decode and augment; 0 does it in the training process."
    )
