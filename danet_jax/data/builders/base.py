"""What every dataset of image and label pairs shares: preparing it once with TFDS, checked, as ArrayRecord.

A dataset's own builder says where its pairs are; this base reads each one once, checks it completely and
writes it, still encoded, into ArrayRecord shards. TFDS writes into a directory of another name and renames
it when everything is there, so a preparation that fails or is killed leaves nothing that looks whole.
TensorFlow is never imported.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import pathlib
import shutil
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.errors import InputError

_EXAMPLES_PER_SHARD = 512


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example to be prepared.

    Attributes:
      name: The example's name, unique in its split; predictions are saved under it.
      image: The encoded image.
      label: The encoded label map, 8-bit single-channel or palette PNG of train ids with 255 = ignore; None
        in a split without labels.
      image_file: Where the image comes from, for error messages.
      label_file: Where the label comes from, for error messages.
    """

    name: str
    image: bytes
    label: bytes | None
    image_file: str
    label_file: str = ""


class PairsBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the builders: pairs of an image and a label map, prepared on first use.

    A subclass sets `VERSION` (raised when what it writes changes), calls `super().__init__` and defines
    `pairs`. Its constructor takes `data_dir`, `root`, `class_names` and `options`, as
    `danet_jax.data.dataset.open_dataset` does, and checks them, but reads no picture.

    Attributes:
      classes: The classes that label values stand for.
    """

    VERSION = tfds.core.Version("1.0.0")
    classes: Classes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the builder out of TFDS's table of names, where some of them mean its own builders."""
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(self, *, data_dir: str | pathlib.Path, variant: str, classes: Classes):
        """Choose the place on disk.

        Args:
          data_dir: The directory of all prepared data.
          variant: Tells this preparation from others of the same builder: it must change whenever what
            would be written changes (see `fingerprint`). Becomes a directory name.
          classes: The classes that label values stand for.
        """
        self.classes = classes
        with _quiet():
            super().__init__(
                data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant), file_format="array_record"
            )

    @abc.abstractmethod
    def pairs(self) -> Mapping[str, Sequence[Callable[[], Pair]]]:
        """Return, for each split, one function per example that reads it from disk.

        Called once, when the data are prepared. The functions are called in order, one at a time.
        """

    def prepare(self) -> None:
        """Prepare the data unless they are prepared already.

        Processes that prepare data in the same directory at the same time wait for each other.

        Raises:
          InputError: Something about the user's files is wrong; nothing is left behind.
        """
        if self._is_whole():
            return
        top = pathlib.Path(self.data_dir_root)
        with _locked(top), _quiet():
            for stale in top.glob("*/*/incomplete.*"):  # of killed preparations: we hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            if self._is_whole():
                return
            shutil.rmtree(self.data_dir, ignore_errors=True)  # if somebody removed some of its files
            logging.info("preparing the dataset %s in %s", self.name, self.data_dir)
            try:
                self.download_and_prepare()
            finally:
                for empty in (pathlib.Path(self.data_dir).parent, pathlib.Path(self.data_dir).parent.parent):
                    with contextlib.suppress(OSError):  # not empty when all went well
                        empty.rmdir()

    def _is_whole(self) -> bool:
        # The directory appears under this name by one renaming, when everything is in it.
        splits = self.info.splits.values() if pathlib.Path(self.data_dir).is_dir() else ()
        files = [path for split in splits for path in split.filepaths]
        return bool(files) and all(path.exists() for path in files)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "image": tfds.features.Image(),
                    "label": tfds.features.Image(shape=(None, None, 1)),
                }
            ),
            metadata=tfds.core.MetadataDict(
                names=list(self.classes.names), colours=list(self.classes.colours)
            ),
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Any]]]]:
        del dl_manager  # nothing is downloaded
        shards: dict[str, list[Callable[[], Iterator[Any]]]] = {}
        for split, readers in self.pairs().items():
            if not readers:
                raise InputError(f"{self.name}: the split {split!r} has no images")
            shards[split] = [
                functools.partial(self._examples, split, readers[start : start + _EXAMPLES_PER_SHARD])
                for start in range(0, len(readers), _EXAMPLES_PER_SHARD)
            ]
        return shards

    def _examples(
        self, split: str, readers: Sequence[Callable[[], Pair]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        progress = tfds.core.utils.tqdm(
            readers, desc=f"Preparing {self.name}, {split}", unit=" images", leave=False
        )
        for read in progress:
            pair = read()
            check_pair(pair, len(self.classes))
            yield (
                pair.name,
                {"name": pair.name, "image": _ReadOnce(pair.image), "label": _ReadOnce(pair.label or b"")},
            )

    def _make_download_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Return nothing that downloads: TFDS would create folders for it."""
        del args, kwargs
        return types.SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        """Say nothing: TFDS would print that it downloads, which it does not."""

    def _log_download_done(self) -> None:
        """Say nothing, for the same reason."""


def check_pair(pair: Pair, class_count: int) -> None:
    """Decode both pictures of `pair` completely and compare them.

    Raises:
      InputError: A picture cannot be decoded, the sizes differ or a label is neither a class nor 255.
    """
    image = decode.decode_image(pair.image, pair.image_file)
    if pair.label is None:
        return
    label = decode.decode_label(pair.label, pair.label_file)
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{pair.label_file}: the label is {label.shape[1]}x{label.shape[0]} but its image {pair.image_file} is "
            f"{image.shape[1]}x{image.shape[0]}; make them the same size"
        )
    counts = np.bincount(label.ravel(), minlength=256)
    strange = [int(value) for value in np.flatnonzero(counts) if class_count <= value != IGNORE_LABEL]
    if strange:
        raise InputError(
            f"{pair.label_file}: label value {strange[0]} ({counts[strange[0]]} pixels) is neither a class "
            f"(0 to {class_count - 1}) nor {IGNORE_LABEL} (ignore)"
            + (f"; so are {strange[1:6]}" if strange[1:] else "")
            + "; correct the label or the list of classes"
        )


def fingerprint(*parts: Any) -> str:
    """Return 12 hexadecimal digits that change when any of `parts` (JSON values) does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_state(path: pathlib.Path) -> tuple[int, int]:
    """Return what tells an unchanged file from a changed one without reading it: size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def checked_options(
    name: str, options: Mapping[str, Any] | None, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `defaults` updated with `options`.

    Raises:
      InputError: A name that is not in `defaults`, or a value of another type than the default.
    """
    given = dict(options or {})
    for key, value in given.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise InputError(f"dataset.options.{key}: {name} has no such option; its options are: {known}")
        if type(value) is not type(defaults[key]):
            kind = type(defaults[key]).__name__
            raise InputError(
                f"dataset.options.{key}: must be of type {kind}, like {defaults[key]!r}, not {value!r}"
            )
    return {**defaults, **given}


class _ReadOnce:
    """A file for TFDS that forgets its bytes once read: TFDS keeps the examples of a whole shard."""

    def __init__(self, data: bytes):
        self._data = data

    def read(self) -> bytes:
        data, self._data = self._data, b""
        return data


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[None]:
    """Hold the one lock of `directory`; the system frees it when the process ends, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written to ({error.strerror}); set dataset.data_dir"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS from warning of what is meant to be so, and from drawing bars into log files."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
