"""`--mode=prepare`: converts a recipe's data set to the form that training reads; other modes open it from here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from danet_jax.data.builders.base import PairsBuilder
from danet_jax.data.builders.published import PublishedBuilder
from danet_jax.data.dataset import (
    Dataset,
    EncodedExample,
    EncodedSource,
    data_changes,
    dataset_builder,
    open_dataset,
)
from danet_jax.data.decode import decode_image
from danet_jax.data.pipeline import evaluation_examples
from danet_jax.errors import InputError, first_line
from danet_jax.modes.arguments import unique_names
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import read_data
from danet_jax.runs.hosts import refuse_differing
from danet_jax.runs.terminal import watched

if TYPE_CHECKING:
    from danet_jax.inference.segmenter import Segmenter


def run(recipe: Recipe, workdir: Path, arguments: list[str]) -> int:
    """Prepares the data set if necessary, and reports the required sources, the content and the location."""
    del workdir
    builder = recipe_builder(recipe)
    if not builder.is_prepared() and isinstance(builder, PublishedBuilder):
        print(f"{builder.texts['title']}: {builder.texts['license']}.")
        for line in builder.source_report():
            print(f"  {line}")
    recipe_dataset(recipe)
    print(describe(recipe_builder(recipe)))
    return 0


def recipe_builder(recipe: Recipe) -> PairsBuilder:
    """Returns the builder of a recipe's data set without preparing anything."""
    with _naming_options():
        return dataset_builder(recipe.dataset.name, **_source(recipe))


def open_recipe_dataset(recipe: Recipe, *needed: str) -> Dataset:
    """Returns the data set of a recipe, and prepares it if necessary.

    The splits that the options in `needed` name, such as "train_split", must exist.
    """
    splits = {f"config.dataset.{option}": getattr(recipe.dataset, option) for option in needed}
    with _naming_options():
        return open_dataset(recipe.dataset.name, **_source(recipe), needed=splits)


def recipe_dataset(recipe: Recipe, *needed: str) -> Dataset:
    """Returns the same as `open_recipe_dataset`, and prints warnings about what may be unintended."""
    dataset = open_recipe_dataset(recipe, *needed)
    warnings = [f"{dataset.name}, {line}" for line in dataset.warnings()]
    split = recipe.dataset.validation_split
    if "train_split" in needed and split == recipe.dataset.train_split:
        warnings.append(f"config.dataset.validation_split={split!r} is also trained on")
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    return dataset


def validation_examples(recipe: Recipe, count: int) -> Iterator[tuple[str, EncodedExample]]:
    """Returns the first examples of a recipe's validation split, each with a unique file name."""
    source = recipe_dataset(recipe, "validation_split").source(recipe.dataset.validation_split)
    examples = [source[index] for index in range(min(count, len(source)))]
    return zip(unique_names(example["name"].replace("/", "_") for example in examples), examples, strict=True)


def watch_examples(source: EncodedSource, split: str, *, bits: int, workers: int) -> Iterator[dict[str, Any]]:
    """Yields the decoded examples that this host evaluates, with a progress bar on the first host."""
    host, hosts = jax.process_index(), jax.process_count()
    examples = evaluation_examples(source, bits=bits, shard_index=host, shard_count=hosts, workers=workers)
    count = len(range(host, len(source), hosts))
    return watched(examples, f"evaluating {split}", count, enabled=host == 0)


def refuse_differing_data(dataset: Dataset) -> None:
    """Raises InputError on every host, naming the differences, if hosts have different data. All hosts must call it."""
    counts = {f"examples of {split}": count for split, count in dataset.splits.items()}
    facts = {"classes": dataset.classes.names, **counts, **dataset.shard_digests}
    refuse_differing(facts, "data sets (dataset.root)")


def refuse_other_data(workdir: Path, digest: Mapping[str, Any], *, resume_anyway: bool) -> None:
    """Raises InputError, naming the changes, if the run in `workdir` was trained on data with another digest.

    With `resume_anyway`, the changes are printed instead.
    """
    file = workdir / "data.json"
    before = read_data(workdir)
    try:
        changes = [] if before is None else data_changes(before, digest)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError.for_file(
            file, f"was not written by a run ({first_line(error)}); remove it"
        ) from None
    if changes and not resume_anyway:
        raise InputError.for_file(
            file,
            f"the data changed since the run was started ({'; '.join(changes)}); restore them, choose another "
            "--workdir, or resume it anyway with --config.training.resume_anyway=True",
            value=changes,
        )
    if before is None:
        changes = ["the run stores no digest of its data, so changes of the data cannot be detected"]
    if changes and jax.process_index() == 0:
        print(f"warning: {workdir}: {'; '.join(changes)}", file=sys.stderr)


def decode_example(example: EncodedExample, segmenter: Segmenter) -> np.ndarray:
    """Returns the image of a stored example as a network takes it, `[H, W, 3]`."""
    return decode_image(
        example["image"],
        example["name"],
        bits=example.get("bits", 16),
        depth=segmenter.protocol.depth,
        trusted=True,
    )


def describe(builder: PairsBuilder) -> str:
    """Returns a line about prepared data: the number of examples, their size and their location."""
    counts = ", ".join(f"{info.num_examples} {split}" for split, info in builder.info.splits.items())
    size = sum(path.stat().st_size for path in Path(builder.data_dir).iterdir() if path.is_file())
    shards = sum(len(info.filenames) for info in builder.info.splits.values())
    return (
        f"{builder.name}: {counts}; {len(builder.classes)} classes; {size / 1e9:.2f} GB in {shards} shards in "
        f"{builder.data_dir}"
    )


@contextlib.contextmanager
def _naming_options() -> Iterator[None]:
    """Replaces names of options in errors of data sets, which know no recipe, by their names in a recipe."""
    try:
        yield
    except InputError as error:
        if error.what and error.what.startswith("dataset."):
            raise error.in_group("config.") from error
        raise


def _source(recipe: Recipe) -> dict[str, Any]:
    options = recipe.dataset
    return {
        "root": options.root or None,
        "data_dir": options.data_dir,
        "class_names": options.class_names,
        "options": options.options,
    }
