"""`--mode=explore`: writes pages that show what each position of the user's images attends to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from danet_jax.errors import InputError
from danet_jax.inference.segmenter import Segmenter, load_segmenter
from danet_jax.modes.arguments import find_images, find_network, read_image, short_name
from danet_jax.modes.prepare import decode_example, validation_examples
from danet_jax.recipe import Recipe
from danet_jax.runs.outputs import Outputs
from danet_jax.runs.terminal import shown
from danet_jax.visual.explorer.page import explore

_EXAMPLES = 5


def run(
    recipe: Recipe | None,
    workdir: Path,
    arguments: list[str],
    *,
    checkpoint: str = "",
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Writes `explore/NAME.html` into `workdir` for the files and folders in `arguments`.

    Without arguments, it shows the first validation examples of the recipe. A file that is not an image, or that needs
    more memory than is free, is reported; the others are shown, and the exit status is 1.
    """
    if not arguments and recipe is None:
        raise InputError("--mode=explore needs image files or folders after the flags", what="--mode=explore")
    protocol = recipe.protocol() if recipe else None
    segmenter = load_segmenter(find_network(workdir, checkpoint), protocol, **(overrides or {}))
    failures = 0
    outputs = Outputs(workdir / "explore", overwrite=overwrite)
    for source, name, title, read in _images(recipe, arguments, segmenter):
        since = time.perf_counter()
        try:
            image = read()
            with shown(f"exploring {title}"), outputs.writing(source, name, [".html"]) as [path]:
                size = explore(segmenter, image, path, name=title)
        except InputError as error:
            print(error if title in str(error) else f"{title}: {error}", file=sys.stderr)
            failures += 1
            continue
        print(f"{title}: {path} ({size / 1e6:.1f} MB, {time.perf_counter() - since:.0f} s)", flush=True)
    return 1 if failures else 0


def _images(
    recipe: Recipe | None, arguments: list[str], segmenter: Segmenter
) -> Iterator[tuple[str, str, str, Callable[[], np.ndarray]]]:
    """Yields for each image its source, the name of its page, a title and a function that reads its pixels."""
    if recipe is not None and not arguments:
        for name, example in validation_examples(recipe, _EXAMPLES):
            title = example["name"]
            yield f"validation example {title}", name, title, partial(decode_example, example, segmenter)
    for path in find_images(arguments):
        yield (
            os.path.abspath(path),
            short_name(path),
            path.name,
            partial(read_image, path, segmenter.bits_used, segmenter.protocol.depth),
        )
