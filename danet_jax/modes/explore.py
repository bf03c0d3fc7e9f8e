"""`--mode=explore`: pages that show what every place of the user's images attends to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from danet_jax.data.decode import decode_image
from danet_jax.errors import InputError
from danet_jax.inference.segmenter import load_segmenter
from danet_jax.modes.arguments import images_of, named_apart, read_image, trained_network
from danet_jax.modes.prepare import validation_examples
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

    Without arguments it shows the first validation examples of the recipe. A file that is not an image, or takes more
    memory than there is, is reported, the others are shown, and the status is 1.
    """
    if not arguments and recipe is None:
        raise InputError("--mode=explore needs image files or folders after the flags", what="--mode=explore")
    protocol = recipe.protocol() if recipe else None
    segmenter = load_segmenter(trained_network(workdir, checkpoint), protocol, **(overrides or {}))
    failures = 0
    for name, title, read in _images(recipe, arguments):
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


def _images(
    recipe: Recipe | None, arguments: list[str]
) -> Iterator[tuple[str, str, Callable[[], np.ndarray]]]:
    """Yields a file name, a title and what reads the pixels, for each image."""
    if recipe is not None and not arguments:
        for name, example in validation_examples(recipe, _EXAMPLES):
            yield name, example["name"], partial(decode_image, example["image"], example["name"])
    for name, path in named_apart(images_of(arguments)).items():
        yield name, path.name, partial(read_image, path)
