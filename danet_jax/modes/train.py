"""`--mode=train`: from a recipe to a trained network in a run's directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from danet_jax.data.pipeline import evaluation_examples, training_batches
from danet_jax.errors import InputError
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.modes.prepare import recipe_dataset
from danet_jax.recipe import Recipe
from danet_jax.training.checkpoints import has_checkpoint
from danet_jax.training.loop import train
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step
from danet_jax.weights.checkpoint import load_checkpoint
from danet_jax.weights.initialize import initialize_from
from danet_jax.weights.run_directory import is_run, read_classes, read_config, write_description

# Settings that may differ when a run is resumed: they change where and how fast it runs, not what comes out
# (which checkpoint is the best depends on the evaluation).
_FREE = (
    "training.log_every",
    "training.resume_anyway",
    "dataset.workers",
    "dataset.data_dir",
    "mesh",
)


def run(recipe: Recipe, workdir: Path, arguments: list[str]) -> int:
    """Trains, going on where an earlier run in `workdir` was interrupted; 0 when it is done."""
    if arguments:
        raise InputError(f"{arguments[0]}: --mode=train takes no arguments after the flags")
    if is_run(workdir) and not recipe.training.resume_anyway:
        refuse_other_recipe(read_config(workdir), recipe.as_dict(), workdir)
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.space)
    check_divisibility(recipe, mesh.shape)
    dataset = recipe_dataset(recipe)
    if is_run(workdir) and (names := read_classes(workdir).names) != dataset.classes.names:
        raise InputError(
            f"{workdir}: holds a run with other classes ({', '.join(names[:4])}, ... and now "
            f"{', '.join(dataset.classes.names[:4])}, ...); choose another --workdir"
        )
    options, hosts = recipe.training, jax.process_count()
    source = dataset.source(recipe.dataset.train_split)
    validation = dataset.source(recipe.dataset.validation_split)
    steps_per_epoch = max(1, len(source) // options.batch_size)
    steps = options.steps or max(1, round(options.epochs * steps_per_epoch))

    model = recipe.model.build(len(dataset.classes))
    schedule = poly_schedule(options.learning_rate, steps, options.power)
    optimizer = sgd(
        schedule,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        head_multiplier=options.head_multiplier,
    )
    state = create_state(model, optimizer, recipe.seed, mesh)
    evaluator = Evaluator(model, dataset.classes, recipe.evaluation.build(recipe.dataset.name), mesh)

    def evaluate(variables: Mapping[str, Any]) -> dict[str, float]:
        examples = evaluation_examples(
            validation,
            shard_index=jax.process_index(),
            shard_count=hosts,
            workers=recipe.dataset.workers,
        )
        result = evaluator(variables, examples)
        return {"miou": result.miou, "pixel_accuracy": result.pixel_accuracy}

    if recipe.init.source and not has_checkpoint(workdir / "checkpoints"):
        checkpoint = load_checkpoint(recipe.init.source)
        try:
            variables, report = initialize_from(checkpoint, model, state.variables)
        except InputError as error:
            raise InputError(f"{recipe.init.source}: {error}") from error
        state = state.replace(**variables)
        if jax.process_index() == 0:
            print(f"{recipe.init.source}: {checkpoint.description}", *report, sep="\n  ")

    def describe() -> None:
        if jax.process_index() == 0:
            write_description(workdir, recipe.as_dict(), dataset.classes)
            print(f"{len(source)} examples, {steps} steps", flush=True)

    batches = training_batches(
        source,
        batch_size=options.batch_size // hosts,
        base_size=recipe.dataset.base_size,
        crop_size=recipe.dataset.crop_size,
        seed=recipe.seed,
        random_scale=recipe.dataset.random_scale,
        workers=recipe.dataset.workers,
        shard_index=jax.process_index(),
        shard_count=hosts,
    )
    train(
        state,
        make_train_step(
            model,
            optimizer,
            loss_weights=options.loss_weights,
            auxiliary_weight=options.auxiliary_weight,
            accumulation=options.accumulation,
        ),
        batches,
        evaluate,
        protocol=evaluator.protocol.name,
        mesh=mesh,
        folder=workdir,
        steps=steps,
        schedule=schedule,
        head_multiplier=options.head_multiplier,
        evaluate_every=options.evaluate_every or steps_per_epoch,
        checkpoint_every=options.checkpoint_every or steps_per_epoch,
        log_every=options.log_every,
        describe=describe,
    )
    return 0


def check_divisibility(recipe: Recipe, mesh: Mapping[str, int]) -> None:
    """Raises InputError unless batches divide over the devices, and images over those of a host."""
    batch_size, accumulation = recipe.training.batch_size, recipe.training.accumulation
    if batch_size // accumulation % mesh["data"] or batch_size % jax.process_count():
        raise InputError(
            f"config.training.batch_size={batch_size} (in {accumulation} parts) must divide over "
            f"{mesh['data']} devices; change it, or config.mesh.data"
        )
    if jax.process_count() > 1 and (
        jax.local_device_count() % mesh["space"] or mesh["data"] * mesh["space"] != jax.device_count()
    ):
        raise InputError(
            f"config.mesh.space={mesh['space']} must divide the {jax.local_device_count()} devices of each host, "
            f"and config.mesh.data take all the others"
        )
    if recipe.dataset.crop_size % mesh["space"]:
        raise InputError(
            f"config.dataset.crop_size={recipe.dataset.crop_size} must be a multiple of "
            f"config.mesh.space={mesh['space']}"
        )


def refuse_other_recipe(old: Mapping[str, Any], new: Mapping[str, Any], workdir: Path) -> None:
    """Raises InputError, naming the keys, when `workdir` holds a run of another recipe."""
    before, now = _flat(old), _flat(new)
    differing = [
        f"{key.replace('init.source', 'init.from')} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in _FREE)
    ]
    if differing:
        raise InputError(
            f"{workdir}: holds a run of another config ({'; '.join(differing)}); choose another --workdir, "
            "or go on all the same with --config.training.resume_anyway=True"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
