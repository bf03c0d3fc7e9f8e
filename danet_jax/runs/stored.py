"""What is stored in a run's checkpoints/, read with care: it may be damaged, or a stranger's.

STEP/variables     what the network is applied with
STEP/training      the rest of the state: step, optimizer, random key
STEP/data          the position in the stream of examples
STEP/description   the network's options and the classes, as they were trained
STEP/digests.json  of all of these
STEP/metrics       scores, once it was evaluated
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from danet_jax.classes import Classes
from danet_jax.errors import InputError, first_line
from danet_jax.models.danet import DANet
from danet_jax.models.options import options_of
from danet_jax.runs.buckets import absolute, is_bucket
from danet_jax.runs.digests import digest_of_text, refuse_changed
from danet_jax.runs.reading import read_json


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, oldest first; Orbax makes the folder before the first."""
    # In a bucket a checkpoint has its name from the start, and Orbax marks it when it is whole.
    is_whole = ocp.utils.is_checkpoint_finalized if is_bucket(folder) else Path.is_dir
    return sorted(
        int(path.name)
        for path in folder.glob("*")
        if re.fullmatch(r"0|[1-9][0-9]*", path.name) and is_whole(path)
    )


def read_scores(checkpoint: Path) -> dict[str, float | None] | None:
    """What the evaluation of a checkpoint gave, None before it was evaluated.

    Raises:
      InputError: they were changed; the message names the file.
    """
    file = scores_file(checkpoint)
    try:
        content = read_json(file)
    except FileNotFoundError:
        return None
    digest = content.pop("digest", None)
    if digest != digest_of_scores(checkpoint, content):
        raise InputError(f"{file}: was changed since it was written (its digest differs)")
    if not all(
        value is None or isinstance(value, float) for value in (content.get("miou", ""), *content.values())
    ):
        raise InputError(f"{file}: is not a run's: scores are numbers")
    return content


def describe(model: DANet, classes: Classes) -> dict[str, Any]:
    """What a checkpoint keeps of the network and the classes that it was trained with; JSON."""
    return {
        "model": options_of(model),
        "classes": {"names": list(classes.names), "colours": list(classes.colours)},
    }


def read_variables(
    folder: Path,
    description: Mapping[str, Any],
    shapes: Mapping[str, Any],
    *,
    which: str = "best",
) -> tuple[int, dict[str, Any]]:
    """What a trained network is applied with, as numpy arrays: any devices can take it from there.

    Args:
      folder: where the checkpoints are.
      description: of the network that is to be applied, from `describe`.
      shapes: its variables, of which only shapes and dtypes count.
      which: "best" by mIoU, or the newest if none was evaluated; "newest".

    Returns:
      The step of the checkpoint, and its variables.

    Raises:
      InputError: there is no checkpoint, or it was changed, is damaged, or is of another network; the message names it.
    """
    steps = checkpoint_steps(folder)
    if not steps:
        raise InputError(f"{folder.parent}: the run has no checkpoint yet; train it further")
    scores = {step: read_scores(folder / str(step)) for step in steps} if which == "best" else {}
    best = best_of({step: found.get("miou") for step, found in scores.items() if found is not None})
    step = steps[-1] if best is None else best
    checkpoint = absolute(folder) / str(step)
    try:
        refuse_changed(checkpoint, ("variables", "description"))
        refuse_other_description(checkpoint, description)
        item = checkpoint / "variables"
        with ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(), multiprocessing_options=_alone()
        ) as checkpointer:
            metadata = checkpointer.metadata(item).item_metadata
            if metadata is None:
                raise InputError("what it says of its arrays contradicts itself")
            tree = metadata.tree
            refuse_other_arrays(tree, shapes)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return step, checkpointer.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # whatever a damaged file makes Orbax and TensorStore raise
        if not checkpoint.exists():  # a run that goes on has replaced it meanwhile
            return read_variables(folder, description, shapes, which=which)
        reason = str(error) if isinstance(error, InputError) else first_line(error)
        others = "" if len(steps) == 1 else ", delete this folder to use another one"
        raise InputError(f"{checkpoint}: the checkpoint cannot be read{others}: {reason}") from error


def _alone() -> ocp.options.MultiprocessingOptions:
    """Of a host that reads by itself, and waits for no other: one may want a report while the others are done."""
    host = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host_{host}"
    )


def refuse_other_arrays(tree: Any, expected: Any) -> None:
    """Holds what a checkpoint says of its arrays against what is to be read, before anything is.

    Args:
      tree: Orbax's metadata of the checkpoint.
      expected: what is to be read, a tree with shapes and dtypes.

    Raises:
      InputError: names, shapes, dtypes or the parts in which arrays are stored are not those.
    """
    found, due = _by_path(tree), _by_path(expected)
    for name in sorted(found.keys() | due.keys()):
        if name not in found or name not in due:
            where = "is missing" if name not in found else "is not of this network"
            raise InputError(f"{name:.120} {where}")
        leaf, shape = found[name], tuple(due[name].shape)
        if tuple(leaf.shape) != shape or leaf.dtype != due[name].dtype:
            raise InputError(
                f"{name} is {leaf.dtype} {list(leaf.shape)!s:.80}, due is {due[name].dtype} {list(shape)}"
            )
        parts = getattr(leaf.storage, "chunk_shape", None) or shape
        if len(parts) != len(shape) or any(
            part > max(side, 1) for part, side in zip(parts, shape, strict=True)
        ):
            raise InputError(
                f"{name} is stored in parts of {list(parts)!s:.80}, but its shape is {list(shape)}"
            )


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, whatever it is made of, by `a/b/c`."""
    return {
        "/".join(
            str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in keys
        ): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def refuse_other_description(checkpoint: Path, expected: Mapping[str, Any]) -> None:
    """Raises InputError, naming what differs, if a checkpoint was written of another network or other classes.

    Args:
      checkpoint: its folder.
      expected: `{"model": options, "classes": {"names": [...], "colours": [...]}}`.
    """
    found = read_json(checkpoint / "description" / "metadata")
    expected = json.loads(json.dumps(expected))
    for group, of in (("model", "config.json"), ("classes", "classes.json")):
        there, here = found.get(group), expected[group]
        if not isinstance(there, dict):
            raise InputError("what it says of its network is not a run's")
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name) and (group, name) not in _FREE:
                was, is_now = _difference(there.get(name), here.get(name))
                raise InputError(
                    f"{group}.{name} was {was} when it was trained and is {is_now} now; put back what "
                    f"{of} held, or choose another --workdir"
                )


# They change how fast and how exactly a network computes, not what its weights mean.
_FREE = (("model", "dtype"), ("model", "attention_backend"), ("model", "remat"), ("model", "dropout_rate"))


def _difference(was: Any, is_now: Any) -> tuple[str, str]:
    """The first two elements that differ, or the values themselves."""
    if isinstance(was, list) and isinstance(is_now, list):
        if len(was) != len(is_now):
            return f"of {len(was)}", f"of {len(is_now)}"
        was, is_now = next(pair for pair in zip(was, is_now, strict=True) if pair[0] != pair[1])
    return repr(was)[:80], repr(is_now)[:80]


def best_of(scores: Mapping[int, float | None]) -> int | None:
    """The step of the highest mIoU; of equal ones the later."""
    return max(
        (step for step, score in scores.items() if score is not None),
        key=lambda step: (scores[step], step),
        default=None,
    )


def scores_file(checkpoint: Path) -> Path:
    return checkpoint / "metrics" / "metrics"


def digest_of_scores(checkpoint: Path, scores: Mapping[str, float | None]) -> int:
    return digest_of_text(json.dumps([checkpoint.name, scores], sort_keys=True))
