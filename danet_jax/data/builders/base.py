"""The base class of the builders, which checks pairs of images and labels and stores them as ArrayRecord with TFDS.

The builder of a data set locates its pairs. This base class reads each pair once, checks it completely, using all
cores, and writes it, still encoded, into ArrayRecord shards. TFDS writes into a temporary directory and renames it at
the end, so a preparation that fails or is killed leaves nothing that looks complete, and the next one starts over.
TensorFlow is never imported.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import datetime
import errno
import functools
import itertools
import os
import pathlib
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import filelock
import tensorflow_datasets as tfds
from absl import logging

from danet_jax.classes import Classes
from danet_jax.data.builders import shards
from danet_jax.data.builders.pair import Missing, Pair, PairReader, size_of, without_compression
from danet_jax.data.builders.shards import Info, ReadOnce, ShardWriter, silence_tfds
from danet_jax.data.builders.state import SourceFiles
from danet_jax.data.files import option_error
from danet_jax.data.inspection import Examined, check_pair, map_in_order
from danet_jax.data.summary import Summary
from danet_jax.errors import InputError
from danet_jax.runs.terminal import watched

_SILENT_WAIT = 5.0
"""Seconds to wait for another preparation before reporting it."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Errors of file systems without locks, such as some network mounts."""

_LEFT_BEHIND = ("*/*/incomplete.*", "*/*/unfinished-*")
"""Folders that a killed preparation leaves behind: those of TFDS and those of version 0.2.0."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What a builder prepares.

    Attributes:
      variant: Name of the directory of this preparation; it must change whenever the output would change.
      classes: The classes that label values stand for.
      sources: The files whose digests are part of `variant`.
      former: Name of this variant in version 0.2.0, if that version did not compare the content of `sources`.
      bits: The number of bits that are used in 16-bit channels.
    """

    variant: str
    classes: Classes
    sources: SourceFiles | None = None
    former: str = ""
    bits: int = 16


class PairsBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the builders, which prepare pairs of an image and a label map on first use.

    A subclass sets `VERSION`, which must increase when its output changes, and defines `defaults`, `configure` and
    `pairs`. Every data set may have the option `uncompressed`: whether images are stored without compression in a
    separate preparation, which is several times larger and decodes in a tenth of the time.

    Args:
      data_dir: The directory of all prepared data.
      root: The directory of the user's files or of the published archives.
      class_names: The classes in the order of their ids.
      options: The options of the data set.

    Attributes:
      options: All options of the data set, including defaults.
      classes: The classes that label values stand for.
      bits: The number of bits that are used in 16-bit channels.

    Raises:
      InputError: An argument is invalid, or the description of prepared data is damaged.
    """

    VERSION = tfds.core.Version("1.0.0")
    ALLOWED: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """The values that text options may have, and the smallest and largest value of numbers."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keeps the builder out of the TFDS registry, where some of the names belong to TFDS's own builders."""
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        root: str | pathlib.Path | None = None,
        class_names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        """Checks the arguments and chooses the directory of the prepared data."""
        self.options = self._check_options(options or {})
        chosen = self.configure(pathlib.Path(data_dir), root, tuple(class_names))
        self.classes, self.bits, self._sources = chosen.classes, chosen.bits, chosen.sources
        self._uncompressed = self.options.get("uncompressed", False)
        self._writer = ShardWriter()
        suffix = "_uncompressed" if self._uncompressed else ""
        variant, former = chosen.variant + suffix, chosen.former + suffix
        sources, has_former = chosen.sources, self._directory(data_dir, former).is_dir()
        if sources and has_former and sources.adopts(former, variant):
            variant = variant if self._directory(data_dir, variant).is_dir() else former
        directory = self._directory(data_dir, variant)
        shards.refuse_damaged_descriptions(directory)
        try:
            with silence_tfds():
                config = tfds.core.BuilderConfig(name=variant)
                super().__init__(data_dir=data_dir, config=config, file_format="array_record")
            for path in itertools.chain.from_iterable(split.filepaths for split in self.info.splits.values()):
                if not path.name.startswith(f"{self.name}-"):
                    raise ValueError(f"it lists {path.name}, which belongs to another data set")
        except Exception as error:  # TFDS can raise any exception on a damaged description.
            raise shards.damaged_description(directory / "dataset_info.json", error) from None

    @property
    @abc.abstractmethod
    def defaults(self) -> Mapping[str, Any]:
        """The default of every option."""

    @abc.abstractmethod
    def configure(
        self, data_dir: pathlib.Path, root: str | pathlib.Path | None, class_names: tuple[str, ...]
    ) -> Preparation:
        """Checks the arguments, without decoding any image, and returns what is to be prepared."""

    def _directory(self, data_dir: str | pathlib.Path, variant: str) -> pathlib.Path:
        return pathlib.Path(data_dir, self.name, variant, str(self.VERSION))

    @property
    def texts(self) -> Mapping[str, str]:
        """The texts that describe the data set: `description`, `homepage`, `license` and `citation`."""
        return {}

    @abc.abstractmethod
    def pairs(self) -> Mapping[str, Sequence[PairReader]]:
        """Returns, for each split, one function per example that reads it from disk.

        This is called once, when the data are prepared. The functions are called from several threads, and the examples
        are stored in the order of the functions. A `Reader` also gives the size of its example; a `Missing` is refused.
        """

    def close(self) -> None:
        """Closes the files that `pairs` opened; its functions cannot be called any more."""

    def split_error(self, split: str, summary: Summary) -> InputError | None:
        """Returns an error if a split is invalid although each of its examples is valid, otherwise None."""
        del split, summary
        return None

    def prepare(self, needed: Mapping[str, str] | None = None) -> None:
        """Prepares the data unless they have been prepared already.

        Processes that prepare data in the same directory at the same time wait for each other, and one that waited for
        the same data uses them. A preparation that was interrupted starts over.

        Args:
          needed: Splits that must exist, by the names of the options that choose them.

        Raises:
          InputError: The user's files are invalid, or a split is missing; nothing is left behind.
        """
        self._needed = needed or {}
        if not self.is_prepared():
            self._prepare()
        self._refuse_absent_splits(self.info.splits)
        if self._sources:
            self._sources.remember()

    def _prepare(self) -> None:
        root, directory = pathlib.Path(self.data_dir_root), pathlib.Path(self.data_dir)
        with _lock(root, self.name), silence_tfds():
            if (directory / "dataset_info.json").exists():  # Another process may have prepared the data.
                self.info.read_from_directory(self.data_dir)
            if self.is_prepared():
                return
            for stale in itertools.chain.from_iterable(map(root.glob, _LEFT_BEHIND)):
                shutil.rmtree(stale, ignore_errors=True)
            shutil.rmtree(directory, ignore_errors=True)  # Some of its files may have been deleted.
            logging.info("preparing the dataset %s in %s", self.name, self.data_dir)
            try:
                self.download_and_prepare()
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            finally:
                self.close()
                for empty in (directory.parent, directory.parent.parent):
                    with contextlib.suppress(OSError):  # They are not empty after a success.
                        empty.rmdir()

    def is_prepared(self) -> bool:
        """Returns whether all files of the prepared data exist."""
        # The directory is renamed to this name once it is complete.
        splits = self.info.splits.values() if pathlib.Path(self.data_dir).is_dir() else ()
        files = [path for split in splits for path in split.filepaths]
        return bool(files) and all(path.exists() for path in files)

    def described_shards(self) -> dict[str, dict[str, Any]]:
        """Returns `ShardWriter.described` of the prepared data; empty if the version that prepared them wrote none."""
        return shards.described_shards(pathlib.Path(self.data_dir))

    def damaged_shards(self) -> list[str]:
        """Reads all shards and returns a line for each that has changed since it was written."""
        return shards.damaged_shards(pathlib.Path(self.data_dir))

    def summaries(self) -> dict[str, Summary]:
        """Returns the summary of each prepared split; empty for data prepared by versions that did not count."""
        return self._summaries(self.described_shards())

    def _summaries(self, described: Mapping[str, Mapping[str, Any]]) -> dict[str, Summary]:
        return {
            split: Summary.merge(Summary.from_json(described[name]["summary"]) for name in info.filenames)
            for split, info in self.info.splits.items()
            if all(name in described for name in info.filenames)
        }

    def _describe_shards(self) -> dict[str, dict[str, Any]]:
        """Returns the descriptions of all shards just written; raises InputError if a split is invalid."""
        for split, summary in self._summaries(self._writer.described).items():
            if error := self.split_error(split, summary):
                raise error
        return self._writer.described

    def _info(self) -> tfds.core.DatasetInfo:
        return Info(
            self._describe_shards,
            builder=self,
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
            **{key: text for key, text in self.texts.items() if key != "title"},
        )

    def _make_download_manager(self, **kwargs: Any) -> Any:
        """Returns a stand-in that downloads nothing, because TFDS's own manager would create folders."""
        del kwargs
        return SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        """Prints nothing."""

    def _log_download_done(self) -> None:
        """Prints nothing."""

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Any]]]]:
        del dl_manager  # Nothing is downloaded.
        pairs = self.pairs()
        self._refuse_absent_splits(pairs)
        for reader in itertools.chain(*pairs.values()):
            if isinstance(reader, Missing):
                raise reader.error
        if self._uncompressed:
            pairs = {split: list(map(without_compression, readers)) for split, readers in pairs.items()}
        sizes = {split: [size_of(reader) for reader in readers] for split, readers in pairs.items()}
        self._check_disk(sum(map(sum, sizes.values())))
        generators: dict[str, list[Callable[[], Iterator[Any]]]] = {}
        for split, readers in pairs.items():
            if not readers:
                raise InputError.for_file(self.name, f"the split {split!r} has no images")
            ranges = shards.shard_ranges(sizes[split])
            generators[split] = [
                functools.partial(
                    self._examples,
                    split if len(ranges) == 1 else f"{split} {number}/{len(ranges)}",
                    [readers[i] for i in examples],
                )
                for number, examples in enumerate(ranges, start=1)
            ]
        return generators

    def _examples(self, title: str, readers: Sequence[PairReader]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the examples of a shard and adds them to its summary."""
        pairs = map_in_order(functools.partial(_read_and_check, len(self.classes)), readers)
        summary = self._writer.summary = Summary()
        for pair, examined in watched(pairs, f"preparing {self.name} {title}", len(readers)):
            summary.add(pair.name, examined, pair.assumed)
            image, label = ReadOnce(pair.image), ReadOnce(pair.label or b"")
            yield pair.name, {"name": pair.name, "image": image, "label": label}

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return self._writer

    def refuse_class_names(self, class_names: Sequence[str]) -> None:
        """Raises InputError if names of classes are given; for data sets that define them themselves."""
        if class_names:
            raise option_error("class_names", class_names, f"{self.name} has its own classes; leave it empty")

    def _check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `defaults` updated with `options`, which must exist and have allowed values."""
        if not isinstance(options, Mapping):
            raise option_error("options", options, "must be names with values")
        checked = {**self.defaults}
        for key, value in options.items():
            option, default = f"options.{key}", self.defaults.get(key)
            if key not in checked:
                problem = f"does not exist; the options of {self.name} are: {', '.join(self.defaults)}"
                raise option_error(option, value, problem, tuple(self.defaults))
            if type(value) is int and type(default) is float:
                value = float(value)
            if type(value) is not type(default):
                kind = type(default).__name__
                raise option_error(option, value, f"must be of type {kind}, like {default!r}", kind)
            checked[key] = value
        for key, allowed in self.ALLOWED.items():
            value, is_text = checked[key], isinstance(checked[key], str)
            if not (value in allowed if is_text else allowed[0] <= value <= allowed[-1]):
                listed = f"one of {', '.join(allowed)}" if is_text else f"from {allowed[0]} to {allowed[-1]}"
                raise option_error(f"options.{key}", value, f"must be {listed}", allowed)
        return checked

    def _refuse_absent_splits(self, existing: Iterable[str]) -> None:
        """Raises InputError if one of the required splits does not exist."""
        existing = tuple(existing)
        for key, split in self._needed.items():
            if split not in existing:
                problem = f"{self.name} does not have this split; there are: {', '.join(existing)}"
                if self.name == "folder" and len(existing) == 1:
                    problem += (
                        "; set dataset.options.validation=0.2 to validate on a fifth of it, drawn at random"
                    )
                raise InputError(f"{key}={split!r}: {problem}", what=key, value=split, allowed=existing)

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(pathlib.Path(self.data_dir).parent).free
        if needed > free:
            raise InputError.for_file(
                self.data_dir_root,
                f"{self.name} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; make room or set "
                "dataset.data_dir",
                value=free,
                allowed=needed,
            )


def _read_and_check(class_count: int, read: PairReader) -> tuple[Pair, Examined]:
    pair = read()
    examined = check_pair(pair, class_count)
    return dataclasses.replace(pair, decoded=None), examined  # Many results are queued.


@contextlib.contextmanager
def _lock(directory: pathlib.Path, what: str) -> Iterator[None]:
    """Creates and locks `directory` for the preparation of `what`, waiting while another process has the lock.

    The lock ends with the process. If nothing was prepared, the lock file and the created directories are removed.

    Raises:
      InputError: The directory cannot be written to.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _acquire(directory)
    except FileNotFoundError:  # Another process prepared nothing and removed the directory.
        with _lock(directory, what):
            yield
        return
    except OSError as error:
        raise InputError.for_file(
            directory, f"cannot be written to ({error.strerror}); set dataset.data_dir"
        ) from None
    path = pathlib.Path(lock.lock_file)
    try:
        if path.name == ".lock":
            now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            path.write_text(f"{what}, prepared by {owner} since {now}")
        yield
    finally:
        with contextlib.suppress(OSError):
            if [entry.name for entry in directory.iterdir()] == [path.name]:
                path.unlink()
                for made in missing:
                    made.rmdir()
        lock.release()


def _acquire(directory: pathlib.Path) -> filelock.BaseFileLock:
    """Returns the acquired lock of a directory: a system lock or, if unsupported, a file that names its owner."""
    lock: filelock.BaseFileLock = filelock.FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
        return lock
    except filelock.Timeout:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(directory / ".preparing")
    try:
        lock.acquire(timeout=_SILENT_WAIT)
    except filelock.Timeout:
        with contextlib.suppress(OSError):
            holder = " ".join(pathlib.Path(lock.lock_file).read_text(encoding="utf-8").split())
            print(f"{directory}: waiting for {holder} ({lock.lock_file})", file=sys.stderr, flush=True)
        lock.acquire()
    return lock
