"""`--mode=zoo`: the published checkpoints that have a name here."""

from __future__ import annotations

import itertools
import posixpath
from pathlib import Path

from danet_jax.modes.arguments import refuse_arguments
from danet_jax.recipe import Recipe
from danet_jax.weights.download import cache_directory, cached_path
from danet_jax.weights.zoo import ZOO, Entry

_HEADINGS = ("name", "trained on", "crop", "steps", "mIoU", "several scales", "SHA-256", "")


def run(recipe: Recipe | None, workdir: Path, arguments: list[str]) -> int:
    """Prints a table of the names that `--checkpoint` and `--config.init.checkpoint` take, mIoU in % and URLs."""
    refuse_arguments(arguments, "zoo")
    rows = [_HEADINGS, *(_row(entry) for entry in ZOO)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        cells = [
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    _print_urls()
    print(f"\nDownloaded at first use into {cache_directory()} (DANET_JAX_CACHE sets another place).")
    return 0


def _print_urls() -> None:
    """Prints each source's directory above the rest of its URLs, since full URLs are wider than a terminal."""
    print("\nFiles in the same order; their names end in the beginning of their SHA-256:")
    for _, entries in itertools.groupby(ZOO, lambda entry: entry.name.partition("/")[0]):
        urls = [entry.url for entry in entries]
        directory = f"https://{posixpath.commonpath([url.removeprefix('https://') for url in urls])}/"
        print(directory, *(url.removeprefix(directory) for url in urls), sep="\n  ")


def _row(entry: Entry) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    return (
        entry.name,
        entry.dataset,
        f"{entry.crop[0]}x{entry.crop[1]}" if entry.crop else "",
        f"{entry.iterations:,}" if entry.iterations else "",
        number(entry.miou),
        number(entry.miou_multi_scale),
        entry.sha256,
        "downloaded" if cached_path(entry.url).exists() else "",
    )
