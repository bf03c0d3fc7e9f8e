"""Saves and restores the checkpoints of a training run: the newest for resuming, the best by mIoU for inference.

Orbax gives a checkpoint its final name once everything except the scores is on disk, so a run that is killed leaves no
partial checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from danet_jax.errors import InputError, first_line
from danet_jax.runs.directory import checkpoint_steps
from danet_jax.runs.files import absolute, is_bucket
from danet_jax.runs.hosts import from_first_host
from danet_jax.runs.stored import (
    MANIFEST,
    best_of,
    read_scores,
    refuse_changed,
    refuse_other_description,
    refuse_other_metadata,
    scores_file,
    write_digests,
    write_scores,
)


class Restored(NamedTuple):
    """A restored training state.

    Attributes:
      step: the number of steps that were trained.
      variables: the variables of the network.
      progress: the rest of the training state.
      position: the position in the stream of examples.
    """

    step: int
    variables: dict[str, Any]
    progress: dict[str, Any]
    position: dict[str, int]


class Checkpoints:
    """Saves checkpoints in the background, keeps the newest and the best, and restores onto any device topology.

    Damaged scores are reported and removed. If they belong to the newest checkpoint, it is evaluated again.

    Args:
      folder: the folder that contains the checkpoints.
      keep_every: also keep the checkpoints at multiples of this step.
    """

    def __init__(self, folder: Path, *, keep_every: int | None = None) -> None:
        self._folder = absolute(folder)
        self._scores: dict[int, float | None] = dict(from_first_host(self._read_scores()))
        self._kept: int | None = None
        self._saving = 0
        policies: list[Any] = [preservation_policy.LatestN(1), _Best(self._scores)]
        if keep_every:
            policies.append(preservation_policy.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            temporary_path_class=_with_digests(self._folder),
        )
        # OCDBT combines arrays on disks. In a bucket it would rewrite one object and need that object's generation,
        # which emulators of Google Cloud Storage do not report, so each array becomes its own object there.
        arrays = functools.partial(ocp.PyTreeCheckpointHandler, use_ocdbt=not is_bucket(folder))
        handlers: dict[str, Any] = {
            "variables": arrays(),
            "training": arrays(),
            "data": ocp.JsonCheckpointHandler(),
            "description": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def save(
        self,
        step: int,
        variables: Mapping[str, Any],
        progress: Mapping[str, Any],
        position: Mapping[str, int],
        description: Mapping[str, Any],
    ) -> None:
        """Starts saving a checkpoint in the background; see `Restored` for its parts and `describe` for `description`.

        Raises:
          InputError: the disk is full, or this or the previous checkpoint cannot be written for another reason; the
            message names the folder and the step that is kept.
        """
        self.wait()
        items = ocp.args.Composite(
            variables=ocp.args.PyTreeSave(variables),
            training=ocp.args.PyTreeSave(progress),
            data=ocp.args.JsonSave(position),
            description=ocp.args.JsonSave(description),
        )
        self._kept, self._saving = self._manager.latest_step(), step
        size = sum(leaf.nbytes for leaf in jax.tree.leaves((variables, progress)))
        with self._explaining_errors():
            if not is_bucket(self._folder) and (free := shutil.disk_usage(self._folder).free) < 1.1 * size:
                raise OSError(
                    f"the disk is full: {free / 1e6:.1f} MB are free, a checkpoint takes {size / 1e6:.1f} MB"
                )
            self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
          InputError: the checkpoint cannot be written; see `save`.
        """
        with self._explaining_errors():
            self._manager.wait_until_finished()

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Stores the scores of the checkpoint of `step`. The checkpoint with the highest `miou` is the best."""
        finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
        self._scores[step] = finite["miou"]
        self.wait()
        if jax.process_index() == 0:
            with self._explaining_errors():
                write_scores(self._folder / str(step), finite)

    def is_scored(self, step: int) -> bool:
        """Returns whether the checkpoint of `step` has been evaluated."""
        return step in self._scores

    def is_complete(self, step: int) -> bool:
        """Returns whether the checkpoint of `step` is on disk."""
        return (self._folder / str(step) / MANIFEST).exists()

    def newest(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def restore(
        self, variables: Mapping[str, Any], progress: Mapping[str, Any], description: Mapping[str, Any]
    ) -> Restored | None:
        """Returns the newest intact checkpoint, or None if there is no checkpoint.

        Newer checkpoints that are damaged are reported on stderr and deleted.

        Args:
          variables: a tree with the shapes, dtypes and shardings of the variables to restore.
          progress: the same for the rest of the training state.
          description: the description of the network that is trained now.

        Raises:
          InputError: no checkpoint is intact, or the newest intact one belongs to another network than `description`;
            the message names the checkpoint.
        """
        steps = checkpoint_steps(self._folder)
        if not steps:
            return None
        step, problem = self._newest_intact(steps)
        for damaged in (after for after in steps if after > step):
            self._manager.delete(damaged)
            self._scores.pop(damaged, None)
        if problem and jax.process_index() == 0:
            print(f"{problem}; resuming from the checkpoint of step {step} before it", file=sys.stderr)
        folder = self._folder / str(step)
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"variables": variables, "training": progress})
        try:
            refuse_other_description(folder, description)
            metadata = self._manager.item_metadata(step)
            for item, arrays in like.items():
                refuse_other_metadata(metadata[item], arrays)
            arguments: dict[str, Any] = {
                item: ocp.args.PyTreeRestore(
                    item=arrays, restore_args=ocp.checkpoint_utils.construct_restore_args(arrays)
                )
                for item, arrays in like.items()
            }
            items = ocp.args.Composite(**arguments, data=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # Orbax and TensorStore raise many types of errors if a tree does not fit.
            remedy = "" if isinstance(error, InputError) else "; choose another --workdir"
            raise InputError(
                f"{folder}: cannot be resumed from: {first_line(error)}{remedy}",
                what=(error.what if isinstance(error, InputError) else None) or str(folder),
            ) from error
        return Restored(step, restored["variables"], restored["training"], restored["data"])

    def _read_scores(self) -> list[tuple[int, float | None]]:
        found = []
        for step in checkpoint_steps(self._folder) if jax.process_index() == 0 else ():
            checkpoint = self._folder / str(step)
            try:
                scores = read_scores(checkpoint)
            except InputError as error:
                print(f"{error}; the scores are removed, and evaluated again for the newest", file=sys.stderr)
                scores_file(checkpoint).unlink()
                continue
            if scores is not None:
                found.append((step, scores["miou"]))
        return found

    def _newest_intact(self, steps: Sequence[int]) -> tuple[int, str]:
        """Returns the step of the newest intact checkpoint, and the problem with the newest one if it is damaged."""
        intact, problem, file = None, "", ""
        # Only the first host checks the files, so that all hosts resume from the same checkpoint.
        for step in reversed(steps) if jax.process_index() == 0 else ():
            try:
                refuse_changed(self._folder / str(step))
            except InputError as error:
                problem, file = problem or str(error), file or str(error.what)
            else:
                intact = step
                break
        intact, problem, file = from_first_host([intact, problem, file])
        if intact is None:
            raise InputError(
                f"{problem}; no checkpoint is intact: choose another --workdir, or delete {self._folder}",
                what=file,
            )
        return intact, problem

    @contextlib.contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises many types for full disks, lost mounts and permissions.
            kept = "none was saved before" if self._kept is None else f"that of step {self._kept} is kept"
            reason, remedy = first_line(error), "free some space or repair the disk"
            if not is_bucket(self._folder) and not self._folder.is_dir():
                reason, remedy = "the folder was renamed or removed during training", "move the folder back"
            elif "No space left" in str(error):  # TensorStore's message is very long.
                reason = "the disk is full"
            raise InputError.for_file(
                self._folder,
                f"the checkpoint of step {self._saving} cannot be written ({reason}); {kept}; {remedy}, and the same "
                "command resumes",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Waits until the last checkpoint is on disk."""
        try:
            self.wait()
        except InputError:
            if kind is None or not issubclass(kind, Exception):
                raise  # If an error ended the run, that error is reported instead.
        finally:
            with contextlib.suppress(Exception):  # `wait` has reported it.
                self._manager.close()


class _Best(preservation_policy.PreservationPolicy):
    """Preserves the checkpoint with the highest mIoU.

    Orbax's `BestN` would need the scores when a checkpoint is saved, but they are computed later.
    """

    def __init__(self, scores: Mapping[int, float | None]) -> None:
        self._scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], **_: Any) -> Sequence[bool]:
        best = best_of({checkpoint.step: self._scores.get(checkpoint.step) for checkpoint in checkpoints})
        return [checkpoint.step == best for checkpoint in checkpoints]


@functools.cache
def _with_digests(folder: Path) -> type[ocp.path.atomicity_types.TemporaryPath]:
    """Returns Orbax's class of temporary checkpoints, extended to write digests before a checkpoint is renamed."""
    base: Any = ocp.path.atomicity_defaults.get_default_temporary_path_class(epath.Path(folder))

    class WithDigests(base):
        async def finalize(self) -> None:
            if self.get_final().name.isdigit():  # This is a checkpoint, not one of its items.
                write_digests(self.get())
            await super().finalize()

    return WithDigests
