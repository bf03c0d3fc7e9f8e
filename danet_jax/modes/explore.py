"""`--mode=explore`: pages that show what every place of the user's pictures attends to."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from danet_jax.data.decode import decode_image
from danet_jax.errors import InputError
from danet_jax.inference.segmenter import load_segmenter
from danet_jax.modes.names import named_apart
from danet_jax.modes.photos import pictures_of, read_picture
from danet_jax.modes.prepare import recipe_dataset
from danet_jax.modes.trained import trained
from danet_jax.recipe import Recipe
from danet_jax.visual.explorer.page import explore

_EXAMPLES = 5


def run(
    recipe: Recipe | None,
    workdir: Path,
    arguments: list[str],
    *,
    checkpoint: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Writes `explore/NAME.html` into `workdir` for the files and folders in `arguments`.

    Without any, for the first validation examples of the recipe. A file that is no picture, or takes more memory than
    there is, is reported and the others are done; the status is 1 then.
    """
    if not arguments and recipe is None:
        raise InputError("--mode=explore needs picture files or folders after the flags")
    protocol = recipe.protocol() if recipe else None
    segmenter = load_segmenter(trained(workdir, checkpoint), protocol, **(overrides or {}))
    failures = 0
    for name, title, read in _photos(arguments) if arguments or recipe is None else _examples(recipe):
        path = workdir / "explore" / f"{name}.html"
        since = time.perf_counter()
        try:
            size = explore(segmenter, read(), path, name=title)
        except InputError as error:
            message = str(error) if title in str(error) else f"{title}: {error}"
            print(message, file=sys.stderr)
            failures += 1
            continue
        print(f"{title}: {path} ({size / 1e6:.1f} MB, {time.perf_counter() - since:.0f} s)", flush=True)
    return 1 if failures else 0


def _photos(arguments: list[str]) -> Iterator[tuple[str, str, Any]]:
    for name, path in named_apart(pictures_of(arguments)).items():

        def read(path: Path = path) -> np.ndarray:
            return decode_image(read_picture(path), str(path), upright=True)

        yield name, path.name, read


def _examples(recipe: Recipe) -> Iterator[tuple[str, str, Any]]:
    source = recipe_dataset(recipe, "validation_split").source(recipe.dataset.validation_split)
    for index in range(min(_EXAMPLES, len(source))):
        example = source[index]

        def read(example: Mapping[str, Any] = example) -> np.ndarray:
            return decode_image(example["image"], example["name"])

        yield example["name"].replace("/", "_"), example["name"], read
