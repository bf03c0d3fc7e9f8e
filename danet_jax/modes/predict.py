"""`--mode=predict`: writes label maps and overlays of the user's images and videos."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label, to_8_bits
from danet_jax.data.video import is_video
from danet_jax.errors import InputError
from danet_jax.inference.drawing import overlay, save_labels, save_png, side_by_side
from danet_jax.inference.segmenter import Segmenter, load_segmenter
from danet_jax.modes.arguments import find_images, find_network, read_image, short_name
from danet_jax.modes.prepare import decode_example, validation_examples
from danet_jax.modes.videos import predict_video
from danet_jax.recipe import Recipe
from danet_jax.runs.outputs import Outputs
from danet_jax.runs.terminal import is_terminal, watched

_EXAMPLES = 8
_SUFFIXES = ("_labels.png", "_overlay.png")


def run(
    recipe: Recipe | None,
    workdir: Path,
    arguments: list[str],
    *,
    checkpoint: str = "",
    frame_labels: bool = False,
    legend: bool | None = None,
    outlines: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Segments the files and folders in `arguments` or, if there are none, the first validation examples of the recipe.

    The protocol is that of the recipe's evaluation or, without a recipe, that of the checkpoint. `overrides` replace
    options of the checkpoint's network (see `load_checkpoint`).

    For each image, `NAME_labels.png` and `NAME_overlay.png` are written into `workdir/predictions`. For a video, or a
    pattern of numbered images, `NAME_overlay.mp4` is written and, with `frame_labels`, `NAME_labels/` with a PNG per
    frame; see `predict_video`. Overlays of images have a legend unless `legend` is False, and those of videos only if
    it is True. With `outlines`, only the outlines of the classes are drawn. Results of inputs with the same name get
    different names, and files that this program did not write are replaced only with `overwrite`; see `Outputs`.

    A file that is not an image is reported; the others are segmented, and the exit status is 1.
    """
    # Wrong arguments are refused before the network is loaded.
    files, network = list(find_images(arguments)), find_network(workdir, checkpoint)
    if not arguments and recipe is None:
        raise InputError("--mode=predict needs image files or folders after the flags", what="--mode=predict")
    protocol = recipe.protocol() if recipe else None
    segmenter = load_segmenter(network, protocol, **(overrides or {}))
    classes = segmenter.drawn_classes
    outputs = Outputs(workdir / "predictions", overwrite=overwrite)
    draw = functools.partial(overlay, classes=classes, legend=legend is not False, outlines=outlines)
    if recipe is not None and not arguments:
        _predict_examples(recipe, segmenter, classes, outputs, draw)
        return 0
    failures, since = 0, time.perf_counter()
    for path in watched(files, "segmenting", len(files)):
        try:
            if is_video(path):
                predict_video(
                    segmenter,
                    classes,
                    path,
                    outputs,
                    keep_labels=frame_labels,
                    legend=bool(legend),
                    outlines=outlines,
                )
                continue
            image = read_image(path, segmenter.bits_used, segmenter.protocol.depth)
            with outputs.writing(os.path.abspath(path), short_name(path), _SUFFIXES) as paths:
                labels = segmenter(image)
                save_labels(labels, classes, paths[0])
                save_png(draw(to_8_bits(image, segmenter.protocol.depth), labels), paths[1])
        except InputError as error:
            print(error, file=sys.stderr)
            failures += 1
            continue
        if len(files) == 1 or not is_terminal():  # a terminal shows a progress bar instead
            print(f"{path}: {paths[0]}, {paths[1]}")
    if len(files) > 1:
        rate = len(files) / (time.perf_counter() - since)
        failed = f", {failures} failed" if failures else ""
        print(f"{len(files)} files{failed}, {rate:.2f} per second: {outputs.folder}")
    return 1 if failures else 0


def _predict_examples(
    recipe: Recipe,
    segmenter: Segmenter,
    classes: Classes,
    outputs: Outputs,
    draw: Callable[[np.ndarray, np.ndarray], Image.Image],
) -> None:
    for name, example in validation_examples(recipe, _EXAMPLES):
        image = decode_example(example, segmenter)
        labels = segmenter(image)
        image = to_8_bits(image, segmenter.protocol.depth)
        images, titles = [draw(image, labels)], ["prediction"]
        if example["label"] is not None:
            images.append(draw(image, decode_label(example["label"], name)))
            titles.append("truth")
        with outputs.writing(f"validation example {example['name']}", name, _SUFFIXES) as paths:
            save_labels(labels, classes, paths[0])
            save_png(side_by_side(images, titles), paths[1])
        print(f"{name}: {paths[0]}, {paths[1]}")
