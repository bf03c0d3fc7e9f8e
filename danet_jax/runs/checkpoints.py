"""Checkpoints of a run in training: the newest, to go on from, and the best by mIoU, to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from danet_jax.errors import InputError, first_line
from danet_jax.runs.directory import read_through


def _miou(metrics: dict[str, float]) -> float:
    return metrics["miou"]


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint was completed in `folder`; Orbax makes the folder before the first."""
    return any(path.name.isdigit() for path in folder.glob("*"))


class Checkpoints:
    """Writes in the background, keeps the newest and the best, and restores into any topology.

    Each checkpoint has three items: `variables` (what inference needs), `training` (step, optimizer and
    random state) and `data` (the position in the stream of batches, which is the same on every host). Orbax
    names a checkpoint only when all of it is on disk, so that a killed run leaves none that is half-written.
    """

    def __init__(self, folder: Path) -> None:
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=_miou, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_miou, preservation_policy=policy, cleanup_tmp_directories=True
        )
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(
        self,
        step: int,
        variables: Mapping[str, Any],
        progress: Mapping[str, Any],
        position: Mapping[str, int],
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Saves after `step` steps, while training goes on.

        Args:
          step: how many steps were made.
          variables: what the network is applied with.
          progress: the rest of the state of training.
          position: of the input, of which JSON is written.
          scores: of the evaluation; `miou`, a fraction, enters the choice of the best.
        """
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(variables),
            training=ocp.args.StandardSave(progress),
            data=ocp.args.JsonSave(position),
        )
        metrics = None if scores is None else {"miou": scores["miou"]}
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def newest(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def restore(
        self, variables: Mapping[str, Any], progress: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
        """The newest checkpoint, laid out over devices as `variables` and `progress` are.

        Returns:
          Both of them, and the position of the input.

        Raises:
          InputError: the checkpoint is damaged or belongs to another network; the message names its folder.
        """
        step = self.newest()
        variables, progress = jax.tree.map(ocp.utils.to_shape_dtype_struct, (variables, progress))
        items = ocp.args.Composite(
            variables=ocp.args.StandardRestore(variables),
            training=ocp.args.StandardRestore(progress),
            data=ocp.args.JsonRestore(),
        )
        try:
            for item in ("variables", "training"):
                read_through(self._folder / str(step) / item)
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # whatever a damaged file makes Orbax or TensorStore raise
            raise InputError(
                f"{self._folder / str(step)}: cannot be resumed from; delete this folder to go on from an older "
                f"checkpoint, or choose another --workdir: {first_line(error)}"
            ) from error
        return restored["variables"], restored["training"], restored["data"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits until what was saved is on disk."""
        self._manager.close()
