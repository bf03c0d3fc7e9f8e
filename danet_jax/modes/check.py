"""`--mode=check`: reads every example of a recipe's dataset and says what is in it and what is wrong."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import rich.console
import rich.table
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.builders.base import PairsBuilder
from danet_jax.data.builders.pair import Pair
from danet_jax.data.dataset import EncodedSource
from danet_jax.data.decode import decode_image, decode_label
from danet_jax.data.inspection import Findings, check_pair, inspect
from danet_jax.data.summary import some, warnings
from danet_jax.errors import InputError
from danet_jax.modes.prepare import describe, quiet_dataset, recipe_builder
from danet_jax.recipe import Recipe
from danet_jax.visual.data_page import Table, write_data_page
from danet_jax.visual.pictures import overlay

_EXAMPLES = 8


def run(recipe: Recipe, workdir: Path, arguments: list[str]) -> int:
    """Checks what is prepared or, before anything is, the source files; 1 if an example is bad, else 0.

    Prints what may not be meant so, then, for each split, the number and sizes of the images, the pixels of each class,
    images with nothing to learn from, and every example that is unreadable, mismatched or has labels that are no
    class. Writes the same, and examples with their labels laid over them, into `workdir/check.html`.
    """
    if arguments:
        raise InputError(f"{arguments[0]}: --mode=check takes no arguments after the flags")
    builder = recipe_builder(recipe)
    with contextlib.closing(builder):
        findings, splits = {}, _readers(recipe, builder)
        for split, readers in splits.items():
            print(f"Reading {len(readers)} examples of {split}", file=sys.stderr)
            findings[split] = inspect(readers, builder.classes)
            findings[split].errors += filter(None, [builder.wrong_with(split, findings[split])])
        # What was assumed when the data were prepared cannot be seen in them any more.
        told = warnings(builder.summaries() or findings, builder.classes)
        damaged = builder.damaged_shards()
        print_report(findings, builder.classes, told, damaged)
        wrong = [*damaged, *(error for found in findings.values() for error in found.errors)]
        write_data_page(
            workdir / "check.html",
            f"{builder.name}: {sum(found.images for found in findings.values())} images",
            wrong=wrong,
            warnings=told,
            tables=_page_tables(findings, builder.classes),
            examples=_examples(splits, builder.classes),
        )
    print(f"{workdir / 'check.html'}: examples to look at")
    return 1 if wrong else 0


def _examples(
    splits: Mapping[str, Sequence[Callable[[], Pair]]], classes: Classes
) -> Iterator[tuple[str, Image.Image]]:
    """Examples from all over the splits, with their labels laid over them; those that are wrong are passed over."""
    for split, readers in splits.items():
        count = min(len(readers), max(1, _EXAMPLES // len(splits)))
        for index in range(count):
            with contextlib.suppress(InputError):
                pair = readers[index * len(readers) // count]()
                check_pair(pair, len(classes))
                image = decode_image(pair.image, pair.image_file)
                picture = Image.fromarray(image)
                if pair.label is not None:
                    picture = overlay(image, decode_label(pair.label, pair.label_file), classes)
                yield f"{split}/{pair.name}", picture


def _page_tables(findings: Mapping[str, Findings], classes: Classes) -> list[Table]:
    columns = (
        "split",
        "images",
        "labelled",
        "sizes",
        "smallest",
        "largest",
        "red",
        "green",
        "blue",
        "ignored",
    )
    splits = []
    for split, found in findings.items():
        by_area = sorted(found.sizes, key=lambda size: size[0] * size[1])
        ends = [f"{size[0]}x{size[1]}" for size in (by_area[:1] + by_area[-1:])] or ["-", "-"]
        values = [f"{low} to {high}" for low, high in zip(found.darkest, found.brightest, strict=True)]
        ignored = f"{100 * found.ignored_share:.3f} %"
        splits.append((split, found.images, found.labelled, len(by_area), *ends, *values, ignored))
    tables = [Table("Splits: sizes (height x width) and values of the pixels", columns, splits)]
    labelled = {split: found for split, found in findings.items() if found.labelled}
    heads = [f"{split} {what}" for split in labelled for what in ("pixels", "share", "images")]
    rows = []
    for label, name in enumerate(classes.names):
        cells: list[object] = [label, classes.colours[label], name]
        for found in labelled.values():
            share = f"{100 * found.share(label):.3f} %"
            cells += [int(found.pixels[label]), share, int(found.present[label])]
        rows.append(cells)
    return [*tables, Table("Classes", ("id", "", "class", *heads), rows)] if labelled else tables


def _readers(recipe: Recipe, builder: PairsBuilder) -> Mapping[str, Sequence[Callable[[], Pair]]]:
    if not builder.is_prepared():
        print(f"{builder.name}: not prepared yet; checking the source files")
        return builder.pairs()
    print(describe(builder))
    dataset = quiet_dataset(recipe)
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


def print_report(
    findings: Mapping[str, Findings], classes: Classes, told: Sequence[str] = (), damaged: Sequence[str] = ()
) -> None:
    """Prints warnings, tables of the sizes and the classes, then a line for everything else that was found."""
    for line in told:
        print(f"warning: {line}")
    width = None if sys.stdout.isatty() else max(100, int(os.environ.get("COLUMNS", 0)))
    console = rich.console.Console(width=width, highlight=False)
    console.print(_size_table(findings))
    if any(found.labelled for found in findings.values()):
        console.print(_class_table({s: found for s, found in findings.items() if found.labelled}, classes))
    for split, found in findings.items():
        if found.only_ignored:
            print(f"{split}: {len(found.only_ignored)} images of which every pixel is ignored: "
                  f"{some(found.only_ignored)}")  # fmt: skip
        missing = [name for label, name in enumerate(classes.names) if not found.present[label]]
        if found.labelled and missing:
            print(f"{split}: {len(missing)} classes without a pixel: {some(missing)}")
    for one, other, count in _shared(findings):
        print(f"{count} images are in {one} as well as in {other}")
    errors = [error for found in findings.values() for error in found.errors]
    for error in [*damaged, *errors]:
        print(f"WRONG  {error}")
    total = sum(found.images for found in findings.values())
    if damaged:
        print(f"{len(damaged)} files of the prepared data are damaged")
    elif not errors:
        print(f"all {total} examples are right")
    if errors:
        print(f"{len(errors)} of {total} examples are wrong")


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
