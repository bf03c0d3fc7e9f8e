"""`--mode=report`: writes a page about one run, or about several runs for comparison."""

from __future__ import annotations

from pathlib import Path

from danet_jax.data.pipeline import evaluation_examples
from danet_jax.errors import InputError
from danet_jax.inference.segmenter import load_segmenter
from danet_jax.modes.prepare import recipe_dataset
from danet_jax.recipe import Recipe, defaults, recipe_of_run
from danet_jax.runs.directory import flat_config, is_run
from danet_jax.runs.files import as_path, shared_folder
from danet_jax.runs.terminal import shown, watched
from danet_jax.visual.report.contents import Contents, read_contents
from danet_jax.visual.report.examples import evaluate_examples
from danet_jax.visual.report.page import write_report

MOST_IMAGES = 200
"""The maximum number of validation images, evenly spaced. More would take as long as another evaluation."""


def run(recipe: Recipe | None, workdir: Path, arguments: list[str]) -> int:
    """Writes `report.html` into the run's directory or, for several runs in `arguments`, into the folder they share.

    The best checkpoint is applied to validation images again. If that is impossible, because data or checkpoints are
    missing, the report states so and shows the rest.
    """
    del recipe  # each run has its own
    folders = [as_path(argument) for argument in arguments] or [workdir]
    for folder in folders:
        if not is_run(folder):
            raise InputError.for_file(
                folder, "is not the directory of a run; give directories of runs, or --workdir"
            )
    path = (folders[0] if len(folders) == 1 else shared_folder(folders)) / "report.html"
    runs = [contents(folder) for folder in folders]
    with shown(f"writing {path}"):
        size = write_report(path, runs, flat_config(defaults().to_dict()))
    print(f"{path} ({size / 1e6:.1f} MB)")
    return 0


def contents(folder: Path) -> Contents:
    """Returns the content of the report about a run, with its best checkpoint's validation results if possible."""
    try:
        recipe = recipe_of_run(folder)
        segmenter = load_segmenter(folder, recipe.protocol())
        dataset = recipe_dataset(recipe, "validation_split")
        source = dataset.source(recipe.dataset.validation_split)
        every = max(1, -(-len(source) // MOST_IMAGES))
        count = -(-len(source) // every)
        examples = evaluation_examples(source, bits=segmenter.protocol.depth, shard_count=every)
        moving = watched(examples, f"segmenting {recipe.dataset.validation_split} with {folder.name}", count)
        result, shown_examples = evaluate_examples(segmenter, moving, dataset.classes)
    except InputError as error:
        return read_contents(
            folder, None, (), [f"There are no validation images and no results by class: {error}."]
        )
    note = f"The images and the results by class are from {result.images} of the {len(source)} validation images."
    return read_contents(folder, result, shown_examples, [note] if every > 1 else [])
