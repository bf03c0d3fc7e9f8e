"""`--mode=check`: reads every example of a recipe's dataset and says what is in it and what is wrong."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import rich.console
import rich.table

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.builders.base import PairsBuilder
from danet_jax.data.builders.pair import Pair
from danet_jax.data.dataset import EncodedSource
from danet_jax.data.inspection import Findings, inspect
from danet_jax.errors import InputError
from danet_jax.modes.prepare import describe, recipe_builder, recipe_dataset
from danet_jax.recipe import Recipe

_NAMES_SHOWN = 5


def run(recipe: Recipe, workdir: Path, arguments: list[str]) -> int:
    """Checks what is prepared or, before anything is, the source files; 1 if an example is bad, else 0.

    Prints, for each split, the number and sizes of the images, the pixels of each class, images with nothing
    to learn from, and every example that is unreadable, mismatched or has labels that are no class.
    """
    del workdir
    if arguments:
        raise InputError(f"{arguments[0]}: --mode=check takes no arguments after the flags")
    builder = recipe_builder(recipe)
    with contextlib.closing(builder):
        findings = {}
        for split, readers in _readers(recipe, builder).items():
            print(f"Reading {len(readers)} examples of {split}", file=sys.stderr)
            findings[split] = inspect(readers, builder.classes)
    print_report(findings, builder.classes)
    return 1 if any(found.errors for found in findings.values()) else 0


def _readers(recipe: Recipe, builder: PairsBuilder) -> Mapping[str, Sequence[Callable[[], Pair]]]:
    if not builder.is_prepared():
        print(f"{builder.name}: not prepared yet; checking the source files")
        return builder.pairs()
    print(describe(builder))
    dataset = recipe_dataset(recipe)
    return {
        split: [functools.partial(_stored, source, index, split) for index in range(len(source))]
        for split, source in ((split, dataset.source(split)) for split in dataset.splits)
    }


def _stored(source: EncodedSource, index: int, split: str) -> Pair:
    try:
        example = source[index]
    except InputError as error:
        raise InputError(f"{split}, {error}") from None
    name = example["name"]
    image_file, label_file = f"{split}/{name}, image", f"{split}/{name}, label"
    return Pair(name, example["image"], example["label"], image_file, label_file)


def print_report(findings: Mapping[str, Findings], classes: Classes) -> None:
    """Prints tables of the sizes and the classes, then a line for everything else that was found."""
    width = None if sys.stdout.isatty() else max(100, int(os.environ.get("COLUMNS", 0)))
    console = rich.console.Console(width=width, highlight=False)
    console.print(_size_table(findings))
    if any(found.labelled for found in findings.values()):
        console.print(_class_table({s: found for s, found in findings.items() if found.labelled}, classes))
    for split, found in findings.items():
        if found.only_ignored:
            print(f"{split}: {len(found.only_ignored)} images of which every pixel is ignored: "
                  f"{_some(found.only_ignored)}")  # fmt: skip
        missing = [name for label, name in enumerate(classes.names) if not found.present[label]]
        if found.labelled and missing:
            print(f"{split}: {len(missing)} classes without a pixel: {_some(missing)}")
    for one, other, count in _shared(findings):
        print(f"{count} images are in {one} as well as in {other}")
    errors = [error for found in findings.values() for error in found.errors]
    for error in errors:
        print(f"WRONG  {error}")
    total = sum(found.images for found in findings.values())
    print(f"{len(errors)} of {total} examples are wrong" if errors else f"all {total} examples are right")


def _size_table(findings: Mapping[str, Findings]) -> rich.table.Table:
    table = rich.table.Table(title="Images", title_justify="left")
    for column in ("split", "images", "labelled", "sizes", "smallest", "largest", "most frequent"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, found in findings.items():
        by_area = sorted(found.sizes, key=lambda size: size[0] * size[1])
        frequent = found.sizes.most_common(1)
        table.add_row(
            split,
            str(found.images),
            str(found.labelled),
            str(len(by_area)),
            *(f"{size[0]}x{size[1]}" for size in (by_area[:1] + by_area[-1:])),
            *(f"{height}x{width} ({count})" for (height, width), count in frequent),
        )
    return table


def _class_table(findings: Mapping[str, Findings], classes: Classes) -> rich.table.Table:
    table = rich.table.Table(
        title="Classes: share of the pixels that are not ignored, and number of images", title_justify="left"
    )
    table.add_column("id", justify="right")
    table.add_column("class")
    for split in findings:
        table.add_column(split, justify="right")
        table.add_column("images", justify="right")
    for label, name in enumerate(classes.names):
        cells: list[str] = []
        for found in findings.values():
            present = int(found.present[label])
            cells += [f"{100 * found.share(label):.3f} %" if present else "-", str(present)]
        table.add_row(str(label), name, *cells)
    table.add_section()
    cells = []
    for found in findings.values():
        cells += [f"{100 * found.ignored_share:.3f} %", str(int(found.present[IGNORE_LABEL]))]
    table.add_row(str(IGNORE_LABEL), "ignored, of all pixels", *cells)
    return table


def _shared(findings: Mapping[str, Findings]) -> Iterable[tuple[str, str, int]]:
    """Pairs of splits and the number of images that are in both, byte by byte."""
    splits = list(findings)
    for index, one in enumerate(splits):
        for other in splits[index + 1 :]:
            count = len(findings[one].digests & findings[other].digests)
            if count:
                yield one, other, count


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
