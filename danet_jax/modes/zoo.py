"""`--mode=zoo`: lists the published checkpoints that have a name in the zoo."""

from __future__ import annotations

import itertools
import posixpath
from pathlib import Path

import rich.table

from danet_jax.recipe import Recipe
from danet_jax.runs.terminal import print_table
from danet_jax.weights.download import cache_directory, cached_path
from danet_jax.weights.zoo import ZOO


def run(recipe: Recipe | None, workdir: Path, arguments: list[str]) -> int:
    """Prints the names that `--checkpoint` and `--config.init.checkpoint` take, with mIoU in per cent and URLs."""
    table = rich.table.Table("name", "trained on", "crop", box=None, pad_edge=False)
    for heading in ("steps", "mIoU", "several scales", "SHA-256", ""):
        table.add_column(heading, justify="right")
    for entry in ZOO:
        table.add_row(
            entry.name,
            entry.dataset,
            f"{entry.crop[0]}x{entry.crop[1]}" if entry.crop else "",
            f"{entry.iterations:,}" if entry.iterations else "",
            *("" if miou is None else f"{miou:.2f}" for miou in (entry.miou, entry.miou_multi_scale)),
            entry.sha256,
            "downloaded" if cached_path(entry.url).exists() else "",
        )
    print_table(table, fits=False)
    print("\nThe files in the same order; their names end with the first digits of their SHA-256:")
    for _, entries in itertools.groupby(ZOO, lambda entry: entry.name.partition("/")[0]):
        # Each source's directory is printed once above its files, since full URLs are wider than a terminal.
        urls = [entry.url for entry in entries]
        directory = f"https://{posixpath.commonpath([url.removeprefix('https://') for url in urls])}/"
        print(directory, *(url.removeprefix(directory) for url in urls), sep="\n  ")
    print(
        f"\nThey are downloaded at first use into {cache_directory()}; DANET_JAX_CACHE sets another folder."
    )
    return 0
