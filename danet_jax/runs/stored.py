"""Reads a run's checkpoints, which may be damaged or come from an untrusted source.

    STEP/variables     the variables of the network
    STEP/training      the rest of the training state: step, optimizer state, random key
    STEP/data          the position in the stream of examples
    STEP/description   the options of the network, the classes and the bit depth of the images, as trained
    STEP/digests.json  size and CRC-32 of each of these files
    STEP/metrics       the scores, once the checkpoint has been evaluated, with their own digest

Orbax detects files that cannot be read, but not a flipped bit in a weight. The digests detect every file that was
changed, truncated, lost or swapped.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import math
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
from danet_jax.models.options import build_model, options_of
from danet_jax.models.variables import refuse_other_arrays, variable_shapes
from danet_jax.runs.directory import checkpoint_steps, config_differences, read_classes, read_config
from danet_jax.runs.files import absolute, as_path, read_json, write_json

MANIFEST = "digests.json"

_WITHOUT_DIGEST = (MANIFEST, "metrics", "commit_success.txt")  # Orbax writes the last one in a bucket.
_TIMED = "_CHECKPOINT_METADATA"  # Orbax adds the time of the renaming to this file.
_CHUNK = 1 << 18  # Bytes; fits into a core's cache.
_THREADS = 8

# These options change how fast and how precisely a network computes, not what its weights mean.
_FREE = ("model.dtype", "model.attention_backend", "model.remat", "model.dropout_rate")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network from a run's directory.

    Attributes:
      model: the network.
      variables: its variables.
      classes: the classes that it distinguishes.
      config: the resolved recipe.
      step: the step of the checkpoint.
      bits: the bits per channel of the images that it was trained on.
    """

    model: DANet
    variables: Mapping[str, Any]
    classes: Classes
    config: dict[str, Any]
    step: int
    bits: int = 8


def read_run(path: str | os.PathLike[str], *, which: str = "best") -> Run:
    """Returns the trained network of a run, with its variables as numpy arrays.

    Args:
      path: the run's directory.
      which: "best" for the checkpoint with the highest mIoU, or the newest one if none was evaluated; "newest" for the
        newest one.

    Raises:
      InputError: there is no run or it has no checkpoint, or the checkpoint was changed since it was written or does
        not fit config.json and classes.json; the message names the path.
    """
    path = as_path(path)
    config, classes = read_config(path), read_classes(path)
    try:
        model = build_model(len(classes), config["model"])
    except InputError as error:
        raise error.in_group("config.model.").in_file(path / "config.json") from error
    except (TypeError, ValueError) as error:  # A value has the wrong type.
        raise InputError.for_file(path / "config.json", f"was not written by a run: {error}") from error
    steps = checkpoint_steps(path / "checkpoints")
    if not steps:
        raise InputError.for_file(path, "the run has no checkpoint yet; train it further")
    folders = {step: absolute(path) / "checkpoints" / str(step) for step in steps}
    scores = {step: read_scores(folder) or {} for step, folder in folders.items()} if which == "best" else {}
    best = best_of({step: found.get("miou") for step, found in scores.items()})
    step = steps[-1] if best is None else best
    try:
        variables, bits = _read_variables(folders[step], model, classes)
        return Run(model, variables, classes, config, step, bits)
    except Exception as error:  # Orbax and TensorStore raise many types of errors for damaged files.
        if not folders[step].exists():  # A run that is still training has replaced the checkpoint.
            return read_run(path, which=which)
        reason = str(error) if isinstance(error, InputError) else first_line(error)
        others = "" if len(steps) == 1 else ", delete this folder to use another one"
        what = (error.what if isinstance(error, InputError) else None) or str(folders[step])
        raise InputError(
            f"{folders[step]}: the checkpoint cannot be read{others}: {reason}", what=what
        ) from error


def _read_variables(checkpoint: Path, model: DANet, classes: Classes) -> tuple[dict[str, Any], int]:
    """Returns the variables of an intact checkpoint, and the bits per channel of the images that it was trained on."""
    refuse_changed(checkpoint, ("variables", "description"))
    bits = bits_of(checkpoint)
    refuse_other_description(checkpoint, describe(model, classes, bits))
    # This host does not wait for the others, because one of them may still be writing a report.
    host = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host_{host}"
    )
    # An `ocp.Checkpointer` would warn that a single item has no checkpoint metadata.
    with contextlib.closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)) as handler:
        metadata = handler.metadata(checkpoint / "variables")
        refuse_other_metadata(metadata, variable_shapes(model))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
        variables = handler.restore(
            checkpoint / "variables", args=ocp.args.PyTreeRestore(restore_args=as_numpy)
        )
    return variables, bits


def describe(model: DANet, classes: Classes, bits: int = 8) -> dict[str, Any]:
    """Returns the description of a network and its images (`bits` per channel) that a checkpoint stores as JSON."""
    return {
        "model": options_of(model),
        "classes": {"names": list(classes.names), "colours": list(classes.colours)},
        **({} if bits == 8 else {"bits": bits}),
    }


def bits_of(checkpoint: Path) -> int:
    """Returns the bits per channel of the images that a checkpoint's network takes.

    Raises:
      InputError: the checkpoint's description was not written by a run.
    """
    file = checkpoint / "description" / "metadata"
    bits = read_json(file).get("bits", 8)
    if bits not in range(8, 17):
        raise InputError.for_file(file, f"was not written by a run: bits={bits!r}", value=bits)
    return int(bits)


def refuse_other_description(checkpoint: Path, expected: Mapping[str, Any]) -> None:
    """Raises InputError, naming what differs, unless a checkpoint has the `expected` description; see `describe`."""
    found = read_json(checkpoint / "description" / "metadata")
    for name, was, is_now in config_differences(found, json.loads(json.dumps(expected)), free=_FREE):
        if isinstance(was, list) and isinstance(is_now, list) and len(was) == len(is_now):
            was, is_now = next(pair for pair in zip(was, is_now, strict=True) if pair[0] != pair[1])
        raise InputError(
            f"{name} was {was!r:.80} in training, but is {is_now!r:.80} now; restore it, or choose another --workdir",
            what=name,
            value=is_now,
            allowed=was,
        )


def refuse_other_metadata(metadata: Any, expected: Any) -> None:
    """Raises InputError, naming the first array that differs, unless Orbax's metadata fit a tree of arrays.

    Names, shapes, dtypes and chunk shapes are compared before anything is read. Otherwise TensorStore would end the
    process if untrusted metadata declared arrays or chunks that do not fit into memory.
    """
    if metadata is None:
        raise InputError("the descriptions of its arrays contradict each other")
    refuse_other_arrays(_described(metadata.tree), _described(expected), "its arrays do not fit this network")


def _described(tree: Any) -> dict[str, str]:
    """Returns the dtype and shape of each array by its path, and the shape of chunks that are larger than it."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        text = f"{leaf.dtype} {list(leaf.shape)}"
        chunk = getattr(getattr(leaf, "storage", None), "chunk_shape", None) or leaf.shape
        if math.prod(chunk) > max(1, math.prod(leaf.shape)):
            text += f" in chunks of {list(chunk)}"
        described[jax.tree_util.keystr(path, simple=True, separator="/")] = text
    return described


def write_digests(folder: epath.Path) -> None:
    """Writes the digests of all files in `folder`, a checkpoint."""
    files = _digests(folder, sorted(_files(folder, folder)))
    write_json(folder / MANIFEST, {"files": files, "digest": _crc(files)})


def refuse_changed(folder: epath.PathLike, items: Sequence[str] = ()) -> None:
    """Compares the files of a checkpoint with their digests.

    Args:
      folder: the checkpoint.
      items: the names of the subfolders whose files are read; files in other subfolders only have to exist. By default,
        all files are read.

    Raises:
      InputError: a file was changed, is missing, or was not written by the run; `what` is the file.
    """
    folder = epath.Path(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise InputError.for_file(folder, f"the checkpoint is incomplete ({MANIFEST} is missing)")
    content = read_json(manifest)
    expected = content.get("files")
    if not isinstance(expected, dict) or content.get("digest") != _crc(expected):
        raise _changed(manifest)
    found = set(_files(folder, folder))
    for name in sorted(expected.keys() ^ found):
        state = "is missing" if name in expected else "was not written by the run"
        raise InputError.for_file(folder / name, state)
    names = sorted(name for name in found if not items or name.split("/")[0] in items)
    for name, digest in _digests(folder, names).items():
        if digest != expected[name]:
            raise _changed(folder / name)


def _changed(file: Path | epath.Path) -> InputError:
    return InputError.for_file(file, "was changed since it was written (its digest differs)")


def _crc(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _files(folder: epath.Path, top: epath.Path) -> Iterator[str]:
    for path in folder.iterdir():
        name = str(path.relative_to(top))
        if name in _WITHOUT_DIGEST:
            continue
        if os.path.islink(path):
            raise InputError.for_file(path, "is a link, which no run writes")
        if path.is_dir():
            yield from _files(path, top)
        else:
            yield name


def _digests(folder: epath.Path, names: Sequence[str]) -> dict[str, list[int]]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


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
    """Returns the scores of a checkpoint, including `miou`, or None if it has not been evaluated.

    Raises:
      InputError: the scores were changed since they were written; `what` is the file.
    """
    file = scores_file(checkpoint)
    try:
        content = read_json(file)
    except FileNotFoundError:
        return None
    digest = content.pop("digest", None)
    if digest != _crc([checkpoint.name, content]) or not isinstance(content.get("miou", ""), float | None):
        raise _changed(file)
    return content


def write_scores(checkpoint: Path, scores: Mapping[str, float | None]) -> None:
    """Writes the scores of a checkpoint together with their digest."""
    write_json(scores_file(checkpoint), {**scores, "digest": _crc([checkpoint.name, scores])})


def scores_file(checkpoint: Path) -> Path:
    """Returns the path of a checkpoint's scores."""
    return checkpoint / "metrics" / "metrics"


def best_of(scores: Mapping[int, float | None]) -> int | None:
    """Returns the step with the highest mIoU, or None if no step has one. Of equal steps, the latest is returned."""
    return max(
        (step for step, score in scores.items() if score is not None),
        key=lambda step: (scores[step], step),
        default=None,
    )
