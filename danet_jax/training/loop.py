"""The training loop, from the first step to the last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from danet_jax.data.pipeline import to_device
from danet_jax.errors import InputError
from danet_jax.training.checkpoints import Checkpoints
from danet_jax.training.log import TrainingLog
from danet_jax.training.state import Metrics, TrainState


def train(
    state: TrainState,
    train_step: Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]],
    batches: grain.DatasetIterator[Any],
    evaluate: Callable[[Mapping[str, Any]], Mapping[str, float]],
    *,
    protocol: str,
    mesh: Mesh,
    folder: Path,
    steps: int,
    schedule: optax.Schedule,
    head_multiplier: float,
    evaluate_every: int,
    checkpoint_every: int,
    log_every: int,
    describe: Callable[[], None] = lambda: None,
) -> TrainState:
    """Trains to `steps`, going on from the newest checkpoint in `folder` if there is one.

    A run that was interrupted and resumed ends with the same parameters, bit for bit, as one that was not.

    Args:
      state: a fresh state; a checkpoint is laid out over devices as it is.
      train_step: from `danet_jax.training.state.make_train_step`; `state` is donated to it.
      batches: endless, with a position that can be saved; this host's share of the global batch.
      evaluate: from variables to scalars by name, `miou` (a fraction) among them.
      protocol: the name of that of `evaluate`, which stands beside its numbers.
      mesh: of the devices.
      folder: where `checkpoints/`, `metrics.jsonl` and `tensorboard/` are written.
      steps: in all, also over interruptions.
      schedule: the learning rate of the backbone by step; for the log, as is `head_multiplier`.
      head_multiplier: how many times faster the heads learn.
      evaluate_every: steps between evaluations; each ends in a checkpoint. The last step is evaluated.
      checkpoint_every: steps between checkpoints.
      log_every: steps between lines of the log.
      describe: called once, when the checkpoint that there was fits and nothing has been written yet.

    Raises:
      InputError: the loss, the gradients or the parameters are not finite; the last good checkpoint is kept.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        step = checkpoints.newest() or 0
        if step:
            state, position = checkpoints.restore(state)
            batches.set_state(position)
        describe()
        with TrainingLog(folder, steps=steps, start=step, enabled=jax.process_index() == 0) as log:
            if step:
                log.say(f"going on from step {step} in {folder}")

            # Metrics stay on the device until they are logged, so that the host runs ahead of it.
            pending: list[Metrics] = []
            images, waiting, since = 0, 0.0, time.perf_counter()
            first = step + 1
            while step < steps:
                asked = time.perf_counter()
                batch = to_device(next(batches), mesh)
                waiting += time.perf_counter() - asked

                state, metrics = train_step(state, batch)
                step += 1
                images += batch["image"].shape[0]
                pending.append(metrics)
                log.advance(step)

                evaluating = step % evaluate_every == 0 or step == steps
                saving = evaluating or step % checkpoint_every == 0
                if not (saving or step == first or step % log_every == 0):
                    continue

                # Every step since the last line is looked at, so that no bad state is ever saved.
                values = _mean_of_finite(pending, step, checkpoints.newest(), folder)
                elapsed = time.perf_counter() - since
                learning_rate = float(schedule(step - 1))
                values |= {
                    "learning_rate": learning_rate,
                    "learning_rate_head": learning_rate * head_multiplier,
                    "images_per_second": images / elapsed,
                    "waiting_for_data": waiting / elapsed,
                }
                log.write(step, values)
                if evaluating:
                    scores = evaluate(state.variables)
                    log.write(step, scores, prefix="validation", protocol=protocol)
                    checkpoints.save(step, state, batches.get_state(), scores["miou"])
                elif saving:
                    checkpoints.save(step, state, batches.get_state())
                pending.clear()
                images, waiting, since = 0, 0.0, time.perf_counter()
    return state


def _mean_of_finite(pending: list[Metrics], step: int, good: int | None, folder: Path) -> dict[str, float]:
    """Means since the last line of the log (of the norms and scales, the last value)."""
    values = jax.device_get(pending)
    for index, metrics in enumerate(values, start=step - len(values) + 1):
        bad = [n for n in ("loss", "gradient_norm", "parameter_norm") if not np.isfinite(metrics.get(n, 0.0))]
        if bad:
            kept = f"step {good} in {folder / 'checkpoints'} is kept" if good else "none was saved yet"
            raise InputError(
                f"step {index}: the {bad[0].replace('_', ' ')} is {metrics[bad[0]]}; lower "
                "config.training.learning_rate or look at the data with --mode=check; of the checkpoints, "
                f"{kept}"
            )
    last = values[-1]
    return {
        name: math.fsum(float(m[name]) for m in values) / len(values)
        if name.startswith("loss")
        else float(last[name])
        for name in last
    }
