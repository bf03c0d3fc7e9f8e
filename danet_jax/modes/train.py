"""`--mode=train`: trains the network of a recipe in a run's directory.

`train` is the training loop. `training_step` builds the schedule, the train step and the initial state from the recipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from danet_jax.data.pipeline import evaluation_examples, to_device, training_batches
from danet_jax.data.transforms import mirrored_labels
from danet_jax.errors import InputError
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.evaluation.result import Result
from danet_jax.models.danet import DANet
from danet_jax.modes import report
from danet_jax.modes.memory import explaining_out_of_memory
from danet_jax.modes.prepare import (
    recipe_dataset,
    refuse_differing_data,
    refuse_other_data,
    watch_examples,
)
from danet_jax.ops.attention import check_backend_runs
from danet_jax.recipe import Recipe, recipe_of_run
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import (
    checkpoint_steps,
    is_run,
    read_classes,
    read_data,
    refuse_fewer_steps,
    refuse_incomplete_run,
    refuse_other_classes,
    refuse_other_config,
    write_description,
)
from danet_jax.runs.files import write_text
from danet_jax.runs.hosts import from_first_host
from danet_jax.runs.lock import locked, refuse_locked
from danet_jax.runs.log import TrainingLog
from danet_jax.runs.pace import Pace, Profile
from danet_jax.runs.stopping import StopSignals
from danet_jax.runs.stored import bits_of, describe, read_scores, refuse_changed, refuse_other_description
from danet_jax.runs.terminal import shown
from danet_jax.training.losses import HardPixels, balanced_weights
from danet_jax.training.mesh import make_mesh, refuse_indivisible, refuse_too_large
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import AttentionStart, Metrics, TrainState, create_state, make_train_step
from danet_jax.training.topologies import count_flops, peak_flops
from danet_jax.visual.validation import ValidationImages
from danet_jax.weights.checkpoint import load_checkpoint
from danet_jax.weights.initialize import initialize_from, refuse_other_backbone

# Options that may differ when a run is resumed, because they change where and how fast it runs, but not its results.
# Options of the evaluation are not among them, since the choice of the best checkpoint depends on it.
_FREE = (
    "compilation_cache",
    "model.remat",
    "training.log_every",
    "training.profile_steps",
    "training.resume_anyway",
    "training.keep_every",
    "training.pictures",
    "training.report",
    "dataset.workers",
    "dataset.data_dir",
    "mesh",
)


def run(recipe: Recipe, workdir: Path, arguments: list[str], *, signals: StopSignals) -> int:
    """Trains a network, or resumes an interrupted run in `workdir`; returns 0 when the training is finished.

    A run that was interrupted and resumed ends with the same parameters, bit for bit, as one that was not. At a signal,
    the current step is finished and saved on all hosts, and the context of `signals` ends.

    Raises:
      InputError: the recipe, the data and the content of `workdir` do not match, which is found before anything is
        written; or the loss, the gradients or the parameters are not finite, and the last good checkpoint is kept.
    """
    has_trained = train(recipe, workdir, signals)
    is_due = recipe.training.report and (has_trained or not (workdir / "report.html").exists())
    if is_due and jax.process_index() == 0:
        try:
            report.run(recipe, workdir, [])
        except InputError as error:  # the training is finished nevertheless
            print(f"report.html was not written: {error}", file=sys.stderr)
    return 0


def train(recipe: Recipe, workdir: Path, signals: StopSignals) -> bool:
    """Runs the training loop, see `run`; returns False if the training was finished before."""
    options, data = recipe.training, recipe.dataset
    host, hosts = jax.process_index(), jax.process_count()
    first_host = host == 0

    # Errors are found, if possible, before data are prepared or anything is compiled, which may take hours.
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.space)
    check_devices(recipe, mesh)
    check_resumable(recipe, workdir)
    start = None
    if recipe.init.checkpoint and not checkpoint_steps(workdir / "checkpoints"):
        start = load_checkpoint(recipe.init.checkpoint)
        refuse_other_backbone(start, recipe.network(2), recipe.init.checkpoint)
    if finished := from_first_host(describe_finished(recipe, workdir) if first_host else ""):
        if first_host:
            print(finished)
        return False

    # The data.
    dataset = recipe_dataset(recipe, "train_split", "validation_split")
    refuse_differing_data(dataset)
    digest = dataset.digest(data.train_split, data.validation_split)
    if is_run(workdir):
        refuse_other_classes(workdir, dataset.classes)
        refuse_other_data(workdir, digest, resume_anyway=options.resume_anyway)
    bits = trained_bits(workdir / "checkpoints", dataset.bits)
    source = dataset.source(data.train_split, labelled="dataset.train_split")
    validation = dataset.source(data.validation_split, labelled="dataset.validation_split")
    batches = training_batches(
        source,
        batch_size=options.batch_size // hosts,
        base_size=data.base_size,
        crop_size=data.crop_size,
        seed=recipe.seed,
        random_scale=data.random_scale,
        flip=data.flip,
        mirrored=mirrored_labels(dataset.classes, data.flip_pairs),
        photometric=data.photometric,
        bits=bits,
        workers=data.workers,
        shard_index=host,
        shard_count=hosts,
    )
    steps_per_epoch, steps = count_steps(recipe, len(source))
    refuse_fewer_steps(workdir, steps)
    evaluate_every = options.evaluate_every or steps_per_epoch
    checkpoint_every = options.checkpoint_every or steps_per_epoch

    # The network, the train step and the evaluation.
    model = recipe.network(len(dataset.classes))
    description = describe(model, dataset.classes, bits)
    class_weights = None
    if options.class_balance:
        class_weights = balanced_weights(dataset.class_pixels(data.train_split), options.class_balance)
    schedule, train_step, fresh_state = training_step(recipe, model, steps, class_weights, bits)
    protocol = dataclasses.replace(recipe.protocol(), bits=bits)
    evaluator = Evaluator(model, dataset.classes, protocol, mesh)

    def validate(variables: Mapping[str, Any]) -> Result:
        examples = watch_examples(validation, data.validation_split, bits=bits, workers=data.workers)
        return evaluator(variables, signals.interrupting(examples))

    shown_examples = itertools.islice(
        evaluation_examples(validation, bits=bits), options.pictures if first_host else 0
    )
    draw_validation_images = ValidationImages(model, protocol, dataset.classes, list(shown_examples))

    # The initial state: fresh, from other weights, or from the last checkpoint.
    with shown("initializing the network", enabled=first_host):
        state = fresh_state(mesh)
    if start is not None:
        # The average keeps its own arrays: a step donates every array of its state, which works only once per array.
        variables, differences = initialize_from(start, model, state.trained)
        state = state.replace(**variables)
        if first_host:
            print(f"{recipe.init.checkpoint}: {start.description}", *differences, sep="\n  ")
    with (
        locked(workdir) if first_host else contextlib.nullcontext(),
        Checkpoints(workdir / "checkpoints", keep_every=options.keep_every) as checkpoints,
    ):
        step = 0
        if restored := checkpoints.restore(state.variables, state.progress, description):
            step, state = restored.step, state.resumed(restored.variables, restored.progress)
            batches.set_state(restored.position)
        if first_host:
            write_description(workdir, recipe.as_dict(), dataset.classes, digest)
            table = parameter_overview.get_parameter_overview(state.variables["params"], include_stats=False)
            write_text(workdir / "parameters.txt", f"{table}\n")
            depth = "" if bits == 8 else f", images of {bits} bits per channel"
            print(f"{len(source)} examples, {steps} steps{depth}", flush=True)
        signals.is_safe = lambda: step == 0 or checkpoints.is_complete(step)

        with (
            TrainingLog(workdir, steps=steps, start=step, enabled=first_host) as log,
            Profile(workdir / "tensorboard", options.profile_steps if first_host else ()) as profile,
            signals.between_steps(),
        ):
            if step:
                log.say(f"resuming from step {step} in {workdir}")

            # Metrics stay on the device until they are logged, so that the host can run ahead of it.
            pending: list[Metrics] = []
            first = step + 1
            peak = peak_flops(mesh.devices.flat[0].device_kind)
            pace = Pace(options.batch_size, peak and peak * mesh.size)
            while True:
                # The state was saved before it is evaluated, so a failure here loses no step.
                if step and (step % evaluate_every == 0 or step == steps) and not checkpoints.is_scored(step):
                    result = validate(state.variables)
                    scores = {"miou": result.miou, "pixel_accuracy": result.pixel_accuracy}
                    log.write(step, scores, prefix="validation", protocol=evaluator.protocol.name)
                    if first_host:
                        log.show(step, draw_validation_images(state.variables))
                    checkpoints.score(step, scores)
                    pace.restart()
                if step == steps:
                    break

                with pace.waiting():
                    batch = to_device(next(batches), mesh)
                if step + 1 == first and pace.peak:
                    pace.flops = count_flops(train_step.lower(state, batch))
                profile.before(step + 1)
                with (
                    shown("compiling the train step", enabled=first_host and step + 1 == first),
                    explaining_out_of_memory(recipe, mesh, train_step, state, batch),
                ):
                    state, metrics = train_step(state, batch)
                    if step + 1 == first:  # running out of memory is reported when the program runs
                        jax.block_until_ready(metrics)
                step += 1
                profile.after(step, metrics)
                pace.step()
                pending.append(metrics)
                log.advance(step)

                stopping = signals.agreed()
                evaluating = step % evaluate_every == 0 or step == steps
                saving = stopping or evaluating or step % checkpoint_every == 0
                if not (saving or step == first or step % options.log_every == 0):
                    continue

                # Every step since the last line of the log is checked, so that no bad state is ever saved.
                values = mean_of_finite(pending, step, checkpoints.newest(), workdir)
                values["learning_rate"] = learning_rate = float(schedule(step - 1))
                values["learning_rate_head"] = learning_rate * options.head_multiplier
                values |= pace.values(compiled=step == first)
                log.write(step, values)
                if saving:
                    checkpoints.save(step, state.variables, state.progress, batches.get_state(), description)
                    signals.progress = (
                        f"at step {step} of {steps}, saved in {workdir}; the same command resumes"
                    )
                if stopping:
                    break
                pending.clear()
                pace.restart()
    return True


class TrainingStep(NamedTuple):
    """The train step, its schedule and the initial state.

    Attributes:
      schedule: maps a step to the learning rate of the backbone.
      step: maps a state and a batch to the next state and metrics, see `make_train_step`.
      fresh_state: returns the initial state, replicated over a mesh.
    """

    schedule: optax.Schedule
    step: Any
    fresh_state: Callable[[Mesh], TrainState]


def training_step(
    recipe: Recipe, model: DANet, steps: int, class_weights: tuple[float, ...] | None = None, bits: int = 8
) -> TrainingStep:
    """Builds the schedule over `steps`, the train step and the initial state of a recipe and its network.

    `class_weights` are the weights of the classes in the loss, and `bits` the bits per channel of the images.
    """
    options = recipe.training
    schedule = poly_schedule(options.learning_rate, steps, options.power)
    optimizer = sgd(
        schedule,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        head_multiplier=options.head_multiplier,
        attention_multiplier=options.attention_multiplier,
        decay_scales=options.decay_scales,
    )
    mean, std = recipe.protocol().normalisation
    step = make_train_step(
        # Strides and dilations have no parameters, so the weights are the same.
        model.clone(output_stride=options.output_stride or model.output_stride),
        optimizer,
        loss_weights=options.loss_weights,
        auxiliary_weight=options.auxiliary_weight,
        hard_pixels=HardPixels(options.ohem_threshold, options.ohem_kept) if options.ohem_threshold else None,
        class_weights=class_weights,
        average_decay=options.ema_decay,
        accumulation=options.accumulation,
        mean=mean,
        std=std,
        bits=bits,
    )

    def fresh_state(mesh: Mesh) -> TrainState:
        return create_state(
            model,
            optimizer,
            recipe.seed,
            mesh,
            start=AttentionStart(recipe.init.query_key_gain, recipe.init.alpha, recipe.init.beta),
            average=options.ema_decay > 0,
        )

    return TrainingStep(schedule, step, fresh_state)


def count_steps(recipe: Recipe, examples: int) -> tuple[int, int]:
    """Returns the number of steps per epoch and of the whole training, for this many training examples."""
    options = recipe.training
    steps_per_epoch = max(1, examples // options.batch_size)
    steps = options.steps or max(1, round(options.epochs * steps_per_epoch))
    if steps >= 2**31:
        raise InputError.for_value(
            "config.training.epochs",
            options.epochs,
            f"amounts to {steps} steps, more than 2**31 - 1; lower it",
        )
    return steps_per_epoch, steps


def check_devices(recipe: Recipe, mesh: Mesh) -> None:
    """Raises InputError if the devices cannot run the recipe's train step."""
    sizes = {
        "batch_size": recipe.training.batch_size,
        "accumulation": recipe.training.accumulation,
        "crop_size": recipe.dataset.crop_size,
    }
    refuse_indivisible(mesh, **sizes)
    refuse_too_large(mesh, **sizes, stem=recipe.model.stem, dtype=recipe.model.dtype)
    backend, platform = recipe.model.attention_backend, jax.default_backend()
    check_backend_runs("config.model.attention_backend", backend, platform, recipe.model.dtype)


def check_resumable(recipe: Recipe, workdir: Path) -> None:
    """Raises InputError if the run in `workdir` is in use, is incomplete, or has another recipe or network."""
    refuse_locked(workdir)
    refuse_incomplete_run(workdir)
    if is_run(workdir) and not recipe.training.resume_anyway:
        refuse_other_config(workdir, recipe_of_run(workdir).as_dict(), recipe.as_dict(), free=_FREE)
    reached = checkpoint_steps(workdir / "checkpoints")
    if not reached:
        return
    newest, classes = workdir / "checkpoints" / str(reached[-1]), read_classes(workdir)
    try:
        refuse_other_description(newest, describe(recipe.network(len(classes)), classes, bits_of(newest)))
    except InputError as error:
        if error.what and error.what.startswith(("model.", "classes.")):
            raise error.in_file(newest) from error
    except OSError:  # a damaged checkpoint is reported when it is restored
        pass


def trained_bits(checkpoints: Path, default: int) -> int:
    """Returns the bits per channel of the images of a run's network, or `default` if it has no intact checkpoint."""
    for step in reversed(checkpoint_steps(checkpoints)):
        with contextlib.suppress(OSError, InputError):  # a damaged checkpoint is reported when it is restored
            return bits_of(checkpoints / str(step))
    return default


def describe_finished(recipe: Recipe, workdir: Path) -> str:
    """Returns a line about the run if its training is finished, and otherwise ""; reads neither data nor weights."""
    checkpoints = workdir / "checkpoints"
    reached, steps = checkpoint_steps(checkpoints), recipe.training.steps
    if reached and not steps:
        # The digest may be missing, or may not have been written by a run.
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            examples = (read_data(workdir) or {})[recipe.dataset.train_split]["examples"]
            _, steps = count_steps(recipe, examples)
    if not reached or reached[-1] != steps:
        return ""
    try:
        refuse_changed(checkpoints / str(steps))
        scores = read_scores(checkpoints / str(steps))
    except InputError:  # a damaged checkpoint is reported when it is restored
        return ""
    if scores is None:
        return ""
    miou = "" if scores["miou"] is None else f", mIoU {100 * scores['miou']:.2f} %"
    return (
        f"{workdir}: finished at step {steps} of {steps}{miou}; whether the data changed was not checked; to train "
        "further, raise --config.training.steps, or choose another --workdir"
    )


def mean_of_finite(pending: list[Metrics], step: int, good: int | None, workdir: Path) -> dict[str, float]:
    """Returns the means of the losses of the pending steps up to `step`, and the last values of norms and scales.

    Raises:
      InputError: a loss or a norm is not finite. The message names `good`, the step of the newest checkpoint.
    """
    values = jax.device_get(pending)
    for index, metrics in enumerate(values, start=step - len(values) + 1):
        for name in ("loss", "gradient_norm", "parameter_norm"):
            if not np.isfinite(metrics.get(name, 0.0)):
                kept = f"step {good} in {workdir / 'checkpoints'} is kept" if good else "none was saved yet"
                raise InputError(
                    f"step {index}: the {name.replace('_', ' ')} is {metrics[name]}; lower "
                    f"config.training.learning_rate, or inspect the data with --mode=check; of the checkpoints, {kept}",
                    what="config.training.learning_rate",
                )
    return {
        name: math.fsum(float(metrics[name]) for metrics in values) / len(values)
        if name.startswith("loss")
        else float(last)
        for name, last in values[-1].items()
    }
