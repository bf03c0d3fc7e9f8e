"""`--mode=check`: reads every example of a recipe's dataset and reports what it contains and what is wrong."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import rich.console
import rich.table

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.builders.base import PairsBuilder
from danet_jax.data.builders.pair import Pair
from danet_jax.data.dataset import EncodedSource
from danet_jax.data.decode import decode_image, decode_label
from danet_jax.data.inspection import Findings, check_pair, inspect
from danet_jax.data.summary import some, warnings
from danet_jax.errors import InputError
from danet_jax.modes.arguments import refuse_arguments
from danet_jax.modes.prepare import describe, quiet_dataset, recipe_builder
from danet_jax.recipe import Recipe
from danet_jax.visual.data_page import Example, Table, write_data_page

_EXAMPLES = 8

_SPLIT_COLUMNS = (
    *("split", "images", "labelled", "sizes", "smallest", "largest", "most frequent"),
    *("red", "green", "blue", "ignored"),
)


def run(recipe: Recipe, workdir: Path, arguments: list[str]) -> int:
    """Checks the prepared data or, before anything is prepared, the source files; returns 1 if an example is wrong.

    Prints warnings, then, for each split, the number and sizes of the images, the pixels of each class, images with
    nothing to learn from, and every example that cannot be read, does not fit its label or has labels of no class.
    Writes the same, and examples with their labels as an overlay, into `workdir/check.html`.
    """
    refuse_arguments(arguments, "check")
    builder = recipe_builder(recipe)
    with contextlib.closing(builder):
        findings, splits = {}, _readers(recipe, builder)
        for split, readers in splits.items():
            print(f"Reading {len(readers)} examples of {split}", file=sys.stderr)
            findings[split] = inspect(readers, builder.classes)
            findings[split].errors += filter(None, [builder.wrong_with(split, findings[split])])
        # What was assumed when the data were prepared can no longer be seen in them.
        warned = warnings(builder.summaries() or findings, builder.classes)
        damaged = builder.damaged_shards()
        print_report(findings, builder.classes, warned, damaged)
        wrong = [*damaged, *(error for found in findings.values() for error in found.errors)]
        write_data_page(
            workdir / "check.html",
            f"{builder.name}: {sum(found.images for found in findings.values())} images",
            errors=wrong,
            warnings=warned,
            tables=_page_tables(findings, builder.classes),
            examples=_examples(splits, builder.classes),
            classes=builder.classes,
        )
    print(f"{workdir / 'check.html'}: examples to look at")
    return 1 if wrong else 0


def _examples(splits: Mapping[str, Sequence[Callable[[], Pair]]], classes: Classes) -> Iterator[Example]:
    """Yields eight examples from everywhere in the splits, fewer if there are not so many; wrong ones are skipped."""
    left = _EXAMPLES
    # The smallest split comes first, so that others can take the places that it leaves.
    for position, split in enumerate(sorted(splits, key=lambda split: len(splits[split]))):
        readers = splits[split]
        count = min(len(readers), -(-left // (len(splits) - position)))
        left -= count
        for index in range(count):
            with contextlib.suppress(InputError):
                pair = readers[index * len(readers) // count]()
                check_pair(pair, len(classes))
                label = None if pair.label is None else decode_label(pair.label, pair.label_file)
                yield Example(f"{split}/{pair.name}", decode_image(pair.image, pair.image_file), label)


def _split_rows(findings: Mapping[str, Findings]) -> list[tuple[object, ...]]:
    """The values of `_SPLIT_COLUMNS` for each split."""
    rows = []
    for split, found in findings.items():
        by_area = sorted(found.sizes, key=lambda size: size[0] * size[1])
        smallest, largest = (
            (f"{size[0]}x{size[1]}" for size in (by_area[0], by_area[-1])) if by_area else "--"
        )
        frequent = [f"{height}x{width} ({count})" for (height, width), count in found.sizes.most_common(1)]
        values = [f"{low} to {high}" for low, high in zip(found.darkest, found.brightest, strict=True)]
        row = (
            split,
            found.images,
            found.labelled,
            len(by_area),
            smallest,
            largest,
            *(frequent or "-"),
            *values,
        )
        rows.append((*row, f"{100 * found.ignored_share:.3f} %"))
    return rows


def _page_tables(findings: Mapping[str, Findings], classes: Classes) -> list[Table]:
    title = "Splits: sizes (height x width) and values of the pixels"
    tables = [Table(title, _SPLIT_COLUMNS, _split_rows(findings))]
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
        raise InputError(f"{split}, {error}", what=error.what, value=error.value) from None
    name = example["name"]
    image_file, label_file = f"{split}/{name}, image", f"{split}/{name}, label"
    return Pair(name, example["image"], example["label"], image_file, label_file)


def print_report(
    findings: Mapping[str, Findings],
    classes: Classes,
    warned: Sequence[str] = (),
    damaged: Sequence[str] = (),
) -> None:
    """Prints warnings, tables of the sizes and the classes, then one line for everything else that was found."""
    for line in warned:
        print(f"warning: {line}")
    width = None if sys.stdout.isatty() else max(100, int(os.environ.get("COLUMNS", 0)))
    console = rich.console.Console(width=width, highlight=False)
    console.print(_size_table(findings))
    if any(found.labelled for found in findings.values()):
        console.print(_class_table({s: found for s, found in findings.items() if found.labelled}, classes))
    for split, found in findings.items():
        if found.only_ignored:
            names = some(found.only_ignored)
            print(f"{split}: {len(found.only_ignored)} images of which every pixel is ignored: {names}")
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
    shown = _SPLIT_COLUMNS.index("most frequent") + 1
    for column in _SPLIT_COLUMNS[:shown]:
        table.add_column(column, justify="left" if column == "split" else "right")
    for row in _split_rows(findings):
        table.add_row(*map(str, row[:shown]))
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
    """Yields pairs of splits and the number of images that are in both, byte for byte."""
    for one, other in itertools.combinations(findings, 2):
        if count := len(findings[one].digests & findings[other].digests):
            yield one, other, count
