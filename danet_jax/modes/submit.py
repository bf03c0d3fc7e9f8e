"""`--mode=submit`: segments a test split and writes the zip file that its test server accepts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.evaluation.submissions import test_server, write_submission
from danet_jax.inference.segmenter import Segmenter, load_segmenter
from danet_jax.modes.arguments import find_network
from danet_jax.modes.prepare import decode_example, recipe_dataset
from danet_jax.recipe import Recipe
from danet_jax.runs.outputs import Outputs
from danet_jax.runs.terminal import watched


def run(
    recipe: Recipe,
    workdir: Path,
    arguments: list[str],
    *,
    checkpoint: str = "",
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Segments the recipe's test split by its protocol and writes `workdir/submission_DATASET_SPLIT.zip`.

    With `--config.dataset.test_split=val`, it writes the validation split in the same format, for the publishers'
    evaluation scripts.
    """
    name, split = recipe.dataset.name, recipe.dataset.test_split
    server = test_server(name)
    protocol = recipe.protocol()
    segmenter = load_segmenter(find_network(workdir, checkpoint), protocol, **(overrides or {}))
    if split == "test" and recipe.dataset.options.get("test") is False:
        raise InputError.for_value(
            "config.dataset.options.test",
            False,
            "leaves out the split that is to be predicted; set it to True",
        )
    dataset = recipe_dataset(recipe, "test_split")
    check_classes(segmenter, dataset.classes)
    source = dataset.source(split)
    predictions = (
        (example["name"], segmenter(decode_example(example, segmenter)).astype(np.uint8))
        for example in watched(source, f"segmenting {split}", len(source))
    )
    outputs = Outputs(workdir, overwrite=overwrite)
    with outputs.writing(f"{name} {split}", f"submission_{name}_{split}", [".zip"]) as [path]:
        count = write_submission(server, predictions, path)
    print(
        f"{path}: {count} predictions of {name}, {split}, by the protocol {protocol.name}; upload it to {server.upload}"
    )
    return 0


def check_classes(segmenter: Segmenter, classes: Classes) -> None:
    """Raises InputError unless the network has the dataset's classes, in the dataset's order."""
    count = segmenter.model.num_classes
    if count != len(classes):
        raise InputError.for_value(
            "num_classes",
            count,
            f"of the network must be {len(classes)}, as in the dataset",
            allowed=len(classes),
        )
    names = segmenter.classes.names if segmenter.classes else classes.names
    for index, (name, expected) in enumerate(zip(names, classes.names, strict=True)):
        if name != expected:
            raise InputError(
                f"class {index} of the network is {name!r}, but {expected!r} in the dataset",
                what=f"class {index}",
                value=name,
                allowed=expected,
            )
