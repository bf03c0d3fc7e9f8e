"""`--mode=check`: reads every example of a recipe's data set, and reports its content and its errors."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import rich.table

from danet_jax.classes import Classes
from danet_jax.data.builders.base import PairsBuilder
from danet_jax.data.builders.pair import Pair
from danet_jax.data.dataset import EncodedSource
from danet_jax.data.decode import decode_label, to_8_bits
from danet_jax.data.inspection import Findings, check_pair, inspect
from danet_jax.data.summary import some, warnings
from danet_jax.errors import InputError
from danet_jax.modes.prepare import describe, open_recipe_dataset, recipe_builder
from danet_jax.recipe import Recipe
from danet_jax.runs.terminal import print_table, watched
from danet_jax.visual.data_page import Example, Table, write_data_page

_EXAMPLES = 8

_ONLY_ON_THE_PAGE = ("red", "green", "blue", "")
"""Columns that, like the numbers of pixels, are left out in terminals for lack of room."""

Reader = Callable[[], Pair]


def run(recipe: Recipe, workdir: Path, arguments: list[str]) -> int:
    """Checks the prepared data or, before anything is prepared, the source files; returns 1 if there are errors.

    Prints warnings and, for each split, the number and sizes of the images, the pixels of each class, the images that
    have only ignored pixels, and every example that cannot be read, does not fit its label, or has labels that are not
    classes. Writes the same, and examples with their labels as overlays, into `workdir/check.html`.
    """
    builder = recipe_builder(recipe)
    with contextlib.closing(builder):
        findings, splits = {}, _readers(recipe, builder)
        for split, readers in splits.items():
            findings[split] = inspect(watched(readers, f"checking {split}", len(readers)), builder.classes)
        for split, found in findings.items():  # after reading all splits, since a builder may compare them
            if difference := builder.split_error(split, found):
                found.errors.append(str(difference))
        # The prepared data no longer show what was assumed when they were prepared, so stored summaries come first.
        warned = warnings(builder.summaries() or findings, builder.classes)
        damaged = builder.damaged_shards()
        tables = _tables(findings, builder.classes)
        errors = [*damaged, *(error for found in findings.values() for error in found.errors)]
        for line in warned:
            print(f"warning: {line}")
        for table in tables:
            _print_table(table)
        _print_findings(findings, builder.classes)
        for error in errors:
            print(f"error: {error}")
        total = sum(found.images for found in findings.values())
        if damaged:
            print(f"{len(damaged)} files of the prepared data are damaged")
        invalid = len(errors) - len(damaged)
        if invalid or not damaged:
            print(
                f"{invalid} of {total} examples are invalid" if invalid else f"all {total} examples are valid"
            )
        write_data_page(
            workdir / "check.html",
            f"{builder.name}: {total} images",
            errors=errors,
            warnings=warned,
            tables=tables,
            examples=_examples(splits, builder.classes),
            classes=builder.classes,
        )
    print(f"{workdir / 'check.html'}: the same, with examples")
    return 1 if errors else 0


def _readers(recipe: Recipe, builder: PairsBuilder) -> Mapping[str, Sequence[Reader]]:
    """Returns functions that read the prepared examples of each split, or the source files."""
    if not builder.is_prepared():
        print(f"{builder.name}: not prepared yet; checking the source files")
        return builder.pairs()
    print(describe(builder))
    dataset = open_recipe_dataset(recipe)
    return {
        split: [functools.partial(_read_stored, source, index, split) for index in range(len(source))]
        for split, source in ((split, dataset.source(split)) for split in dataset.splits)
    }


def _read_stored(source: EncodedSource, index: int, split: str) -> Pair:
    try:
        example = source[index]
    except InputError as error:
        raise InputError(f"{split}, {error}", what=error.what, value=error.value) from None
    name = f"{split}/{example['name']}"
    image, label, bits = example["image"], example["label"], example.get("bits", 16)
    return Pair(example["name"], image, label, f"{name}, image", f"{name}, label", bits=bits)


def _examples(splits: Mapping[str, Sequence[Reader]], classes: Classes) -> Iterator[Example]:
    """Yields about eight examples, spread evenly over the splits, and skips invalid ones."""
    for split, readers in splits.items():
        count = min(len(readers), -(-_EXAMPLES // len(splits)))
        for index in range(count):
            with contextlib.suppress(InputError):
                pair = readers[index * len(readers) // count]()
                check_pair(pair, len(classes))
                image = pair.pixels()
                image = to_8_bits(image, 8 if image.dtype == np.uint8 else pair.bits)
                label = None if pair.label is None else decode_label(pair.label, pair.label_file)
                yield Example(f"{split}/{pair.name}", image, label)


def _tables(findings: Mapping[str, Findings], classes: Classes) -> list[Table]:
    """Returns a table of the images of each split and, if there are labels, a table of the classes."""
    rows: list[list[object]] = []
    for split, found in findings.items():
        by_area = sorted(found.sizes, key=lambda size: size[0] * size[1])
        sizes = [f"{height}x{width}" for height, width in (*by_area[:1], *by_area[-1:])] or ["-", "-"]
        frequent = [f"{height}x{width} ({count})" for (height, width), count in found.sizes.most_common(1)]
        values = [f"{low} to {high}" for low, high in zip(found.darkest, found.brightest, strict=True)]
        ignored = f"{100 * found.ignored_share:.3f} %"
        rows.append(
            [split, found.images, found.labelled, len(by_area), *sizes, *(frequent or "-"), *values, ignored]
        )
    columns = ["split", "images", "labelled", "sizes", "smallest", "largest", "most frequent"]
    columns += ["red", "green", "blue", "ignored"]
    tables = [Table("Images: sizes (height x width) and values of the pixels", columns, rows)]
    labelled = {split: found for split, found in findings.items() if found.labelled}
    if labelled:
        rows = []
        for label, name in enumerate(classes.names):
            rows.append([label, classes.colours[label], name])
            for found in labelled.values():
                share = f"{100 * found.share(label):.3f} %" if found.present[label] else "-"
                rows[-1] += [int(found.pixels[label]), share, int(found.present[label])]
        heads = [f"{split} {what}" for split in labelled for what in ("pixels", "share", "images")]
        title = "Classes: share of the pixels that are not ignored, and number of images"
        tables.append(Table(title, ["id", "", "class", *heads], rows))
    return tables


def _print_table(table: Table) -> None:
    columns = [
        (index, name)
        for index, name in enumerate(table.columns)
        if name not in _ONLY_ON_THE_PAGE and not name.endswith(" pixels")
    ]
    printed = rich.table.Table(title=table.title, title_justify="left")
    for _, name in columns:
        printed.add_column(name, justify="left" if name in ("split", "class") else "right")
    for row in table.rows:
        printed.add_row(*(str(row[index]) for index, _ in columns))
    print_table(printed)


def _print_findings(findings: Mapping[str, Findings], classes: Classes) -> None:
    for split, found in findings.items():
        if found.only_ignored:
            names = some(found.only_ignored)
            print(f"{split}: {len(found.only_ignored)} images have only ignored pixels: {names}")
        missing = [name for label, name in enumerate(classes.names) if not found.present[label]]
        if found.labelled and missing:
            print(f"{split}: {len(missing)} classes never occur: {some(missing)}")
    for one, other in itertools.combinations(findings, 2):
        if count := len(findings[one].digests & findings[other].digests):
            print(f"{count} images are in both {one} and {other}")
