"""What is stored in a run's checkpoints/, and how it is read: it may be damaged, or come from a stranger.

STEP/variables     what the network is applied with
STEP/training      the rest of the state: step, optimizer, random key
STEP/data          the position in the stream of examples
STEP/description   the network's options and the classes, as they were trained
STEP/digests.json  size and CRC-32 of each file of these, by its name in there
STEP/metrics       scores, once it was evaluated; with a digest of its own

Orbax and its storage find what makes a file unreadable, but they read a flipped bit of a weight like any other. The
digests find each file that was changed, truncated, lost or swapped.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from danet_jax.classes import Classes
from danet_jax.errors import InputError, first_line
from danet_jax.models.danet import DANet
from danet_jax.models.options import options_of
from danet_jax.runs.directory import checkpoint_steps
from danet_jax.runs.files import absolute, read_json, write_json

MANIFEST = "digests.json"

_NOT_IN_IT = (MANIFEST, "metrics", "commit_success.txt")  # the last marks a complete checkpoint in a bucket
_TIMED = "_CHECKPOINT_METADATA"  # Orbax adds the time at which the checkpoint gets its name
_CHUNK = 1 << 18  # fits in a core's cache
_THREADS = 8

# They change how fast and how precisely a network computes, not what its weights mean.
_FREE = (("model", "dtype"), ("model", "attention_backend"), ("model", "remat"), ("model", "dropout_rate"))


def write_digests(folder: epath.Path) -> None:
    """Writes the digests of all files in `folder`, a checkpoint."""
    names = list(_files(folder, folder))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name), names)
    files = dict(zip(names, digests, strict=True))
    write_json(folder / MANIFEST, {"files": files, "digest": _digest_of_digests(files)})


def refuse_changed(folder: epath.PathLike, items: Sequence[str] = ()) -> None:
    """Compares the files of a checkpoint with their digests.

    Args:
      folder: the checkpoint.
      items: names of the sub-folders whose content is read; the others need only be there. Empty: all are read.

    Raises:
      InputError: a file differs from what was written, is missing, or was not written; `what` is the file.
    """
    folder = epath.Path(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise InputError(f"{folder}: the checkpoint is incomplete ({MANIFEST} is missing)", what=str(folder))
    content = read_json(manifest)
    expected = content.get("files")
    if not isinstance(expected, dict) or content.get("digest") != _digest_of_digests(expected):
        raise _changed(manifest)
    found = set(_files(folder, folder))
    for name in sorted(expected.keys() ^ found):
        state = "is missing" if name in expected else "was not written by the run"
        raise InputError(f"{folder / name}: {state}", what=str(folder / name))
    names = sorted(name for name in found if not items or name.split("/")[0] in items)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for name, digest in zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True):
            if digest != expected[name]:
                raise _changed(folder / name)


def _changed(file: Path | epath.Path) -> InputError:
    return InputError(f"{file}: was changed since it was written (its digest differs)", what=str(file))


def _digest_of_digests(files: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _files(folder: epath.Path, top: epath.Path) -> Iterator[str]:
    for path in folder.iterdir():
        name = str(path.relative_to(top))
        if name in _NOT_IN_IT:
            continue
        if os.path.islink(path):
            raise InputError(f"{path}: is a link, which no run writes", what=str(path))
        if path.is_dir():
            yield from _files(path, top)
        else:
            yield name


def _digest(path: epath.Path) -> list[int]:
    if path.name == _TIMED:
        try:
            content = read_json(path)
        except InputError:
            return []
        text = json.dumps({**content, "commit_timestamp_nsecs": None})
        return [len(text), zlib.crc32(text.encode())]
    size, crc = 0, 0
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb") as file:
        while length := file.readinto(chunk):
            size += length
            crc = zlib.crc32(chunk[:length], crc)
    return [size, crc]


def read_scores(checkpoint: Path) -> dict[str, float | None] | None:
    """Returns the scores of a checkpoint, None before it was evaluated.

    Raises:
      InputError: they were changed; `what` is the file.
    """
    file = scores_file(checkpoint)
    try:
        content = read_json(file)
    except FileNotFoundError:
        return None
    if content.pop("digest", None) != _digest_of_scores(checkpoint, content):
        raise _changed(file)
    if not all(
        value is None or isinstance(value, float) for value in (content.get("miou", ""), *content.values())
    ):
        raise InputError(f"{file}: was not written by a run: scores are numbers", what=str(file))
    return content


def write_scores(checkpoint: Path, scores: Mapping[str, float | None]) -> None:
    """Writes the scores of a checkpoint, with their digest."""
    write_json(scores_file(checkpoint), {**scores, "digest": _digest_of_scores(checkpoint, scores)})


def scores_file(checkpoint: Path) -> Path:
    """Returns the file of a checkpoint's scores."""
    return checkpoint / "metrics" / "metrics"


def _digest_of_scores(checkpoint: Path, scores: Mapping[str, float | None]) -> int:
    return zlib.crc32(json.dumps([checkpoint.name, scores], sort_keys=True).encode())


def describe(model: DANet, classes: Classes) -> dict[str, Any]:
    """Returns the description of a network and its classes that a checkpoint contains, as JSON."""
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
    """Returns the variables of a trained network as numpy arrays, which any devices can take.

    Args:
      folder: where the checkpoints are.
      description: the description of the network that is to be applied, from `describe`.
      shapes: its variables, of which only shapes and dtypes count.
      which: "best" by mIoU, or the newest if none was evaluated; "newest".

    Returns:
      The step of the checkpoint, and its variables.

    Raises:
      InputError: there is no checkpoint, or it was changed, is damaged, or is of another network; the message names it.
    """
    steps = checkpoint_steps(folder)
    if not steps:
        run = str(folder.parent)
        raise InputError(f"{run}: the run has no checkpoint yet; train it further", what=run)
    scores = {step: read_scores(folder / str(step)) for step in steps} if which == "best" else {}
    best = best_of({step: found.get("miou") for step, found in scores.items() if found is not None})
    step = steps[-1] if best is None else best
    checkpoint = absolute(folder) / str(step)
    try:
        refuse_changed(checkpoint, ("variables", "description"))
        refuse_other_description(checkpoint, description)
        item = checkpoint / "variables"
        # Not by an `ocp.Checkpointer`, which warns that an item has no metadata of a checkpoint.
        with contextlib.closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())) as handler:
            metadata = handler.metadata(item)
            if metadata is None:
                raise InputError("the descriptions of its arrays contradict each other")
            tree = metadata.tree
            refuse_other_arrays(tree, shapes)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return step, handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # whatever a damaged file makes Orbax and TensorStore raise
        if not checkpoint.exists():  # a run that is still training has replaced it meanwhile
            return read_variables(folder, description, shapes, which=which)
        reason = str(error) if isinstance(error, InputError) else first_line(error)
        others = "" if len(steps) == 1 else ", delete this folder to use another one"
        what = (error.what if isinstance(error, InputError) else None) or str(checkpoint)
        raise InputError(
            f"{checkpoint}: the checkpoint cannot be read{others}: {reason}", what=what
        ) from error


def _alone() -> ocp.options.MultiprocessingOptions:
    """Options of a host that reads by itself and waits for no other: one may still write a report."""
    host = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host_{host}"
    )


def refuse_other_arrays(tree: Any, expected: Any) -> None:
    """Compares a checkpoint's description of its arrays with what is to be read, before anything is read.

    Args:
      tree: Orbax's metadata of the checkpoint.
      expected: what is to be read, a tree with shapes and dtypes.

    Raises:
      InputError: names, shapes, dtypes or the parts in which arrays are stored differ; `what` is the array's name.
    """
    found, due = _by_path(tree), _by_path(expected)
    for name in sorted(found.keys() | due.keys()):
        if name not in found or name not in due:
            where = "is missing" if name not in found else "does not belong to this network"
            raise InputError(f"{name:.120} {where}", what=name[:120])
        leaf, shape = found[name], tuple(due[name].shape)
        if tuple(leaf.shape) != shape or leaf.dtype != due[name].dtype:
            raise InputError(
                f"{name} is {leaf.dtype} {list(leaf.shape)!s:.80}, not {due[name].dtype} {list(shape)}",
                what=name,
                value=tuple(leaf.shape),
                allowed=shape,
            )
        parts = getattr(leaf.storage, "chunk_shape", None) or shape
        if len(parts) != len(shape) or any(
            part > max(side, 1) for part, side in zip(parts, shape, strict=True)
        ):
            raise InputError(
                f"{name} is stored in parts of {list(parts)!s:.80}, but its shape is {list(shape)}", what=name
            )


def _by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree, whatever it is made of, by `a/b/c`."""
    return {
        "/".join(
            str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in keys
        ): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def refuse_other_description(checkpoint: Path, expected: Mapping[str, Any]) -> None:
    """Raises InputError, naming what differs, if a checkpoint is of another network or other classes.

    Args:
      checkpoint: its folder.
      expected: `{"model": options, "classes": {"names": [...], "colours": [...]}}`.
    """
    found = read_json(checkpoint / "description" / "metadata")
    expected = json.loads(json.dumps(expected))
    for group, of in (("model", "config.json"), ("classes", "classes.json")):
        there, here = found.get(group), expected[group]
        if not isinstance(there, dict):
            raise InputError(f"its description of the {group} was not written by a run")
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name) and (group, name) not in _FREE:
                was, is_now = _difference(there.get(name), here.get(name))
                raise InputError(
                    f"{group}.{name} was {was} when it was trained and is {is_now} now; restore {of}, or choose "
                    "another --workdir",
                    what=f"{group}.{name}",
                    value=is_now,
                    allowed=was,
                )


def _difference(was: Any, is_now: Any) -> tuple[str, str]:
    """Returns the first two elements that differ, or the values themselves."""
    if isinstance(was, list) and isinstance(is_now, list):
        if len(was) != len(is_now):
            return f"of {len(was)}", f"of {len(is_now)}"
        was, is_now = next(pair for pair in zip(was, is_now, strict=True) if pair[0] != pair[1])
    return repr(was)[:80], repr(is_now)[:80]


def best_of(scores: Mapping[int, float | None]) -> int | None:
    """Returns the step with the highest mIoU, the later of equal ones."""
    return max(
        (step for step, score in scores.items() if score is not None),
        key=lambda step: (scores[step], step),
        default=None,
    )
