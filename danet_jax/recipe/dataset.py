"""`config.dataset`: which data set is used, and how it is cropped and augmented."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from danet_jax.data.dataset import DATASET_NAMES
from danet_jax.data.files import split_name
from danet_jax.recipe.types import Check, Group, Name, NameList, Names, Side, Text


def _is_plain(options: dict[str, Any]) -> bool:
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _are_pairs(pairs: tuple[str, ...]) -> bool:
    return all(len(sides) == 2 and all(sides) for sides in (pair.split("=") for pair in pairs))


_ON_DISK = Check(
    lambda path: "://" not in path,
    "a directory on a local disk or in a mounted bucket, because data are read from a file system",
)


_Split = Annotated[Name, AfterValidator(split_name)]


class DatasetOptions(Group):
    """Which data set is used, and how it is cropped and augmented."""

    name: Annotated[str, Names(DATASET_NAMES)] = Field(
        "cityscapes", description="The data set. `folder` reads your own images and labels."
    )
    root: Annotated[Text, _ON_DISK] = Field(
        "",
        description="The folder with the published archives, or with your own files. The data set `scenes` is drawn "
        "and takes none.",
    )
    data_dir: Annotated[Name, _ON_DISK] = Field(
        "data", description="The folder where prepared data are kept."
    )
    class_names: NameList = Field(
        (),
        description="The names of the classes, in the order of their labels, for a `folder` that has no classes.csv.",
    )
    options: Annotated[
        dict[str, Any],
        Check(_is_plain, "names with values: text, finite numbers, booleans and lists of them"),
    ] = Field(
        {},
        description="Options of the data set itself, explained in docs/datasets.md and docs/your_own_data.md. A recipe "
        "lists those that exist.",
    )
    train_split: _Split = Field("train", description="The split that the network is trained on.")
    validation_split: _Split = Field("val", description="The split that the network is evaluated on.")
    test_split: _Split = Field("test", description="The split that --mode=submit writes predictions for.")
    base_size: Side = Field(
        1024,
        description="The length in pixels to which the short side of an image is scaled before it is cropped. "
        "dataset.random_scale multiplies it by 0.75 to 2.0.",
    )
    crop_size: Side = Field(
        768,
        description="The height and width of training crops in pixels, at least model.output_stride. Smaller crops "
        "need less memory.",
    )
    random_scale: bool = Field(
        True, description="Whether training images are scaled by a random factor from 0.75 to 2.0."
    )
    flip: bool = Field(
        True,
        description="Whether training images are mirrored at random. Turn it off where classes depend on the side, "
        "such as left and right lanes; then evaluation mirrors no images either.",
    )
    flip_pairs: Annotated[
        NameList, Check(_are_pairs, "pairs of classes that mirroring swaps, each LEFT=RIGHT")
    ] = Field(
        (),
        description="Pairs of classes that mirroring swaps, such as `left lane=right lane`. They are swapped in the "
        "labels of mirrored training images, and in the scores of mirrored images in evaluation.",
    )
    photometric: bool = Field(
        False,
        description="Whether the brightness, contrast, saturation and hue of training images are changed at random, as "
        "in mmsegmentation. The paper does not do this.",
    )
    classes_by_number: bool = Field(
        False,
        description="Whether a network is evaluated although its classes have other names than those of the data. Set "
        "it if the numbers mean the same classes.",
    )
    workers: int = Field(
        4,
        ge=0,
        le=256,
        description="The number of processes that decode and augment images. 0 does it in the training process. Raise "
        "it if waiting_for_data in the log, the share of the time spent waiting for images, is not near 0.",
    )
