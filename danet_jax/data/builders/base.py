"""What every dataset of image and label pairs shares: preparing it once with TFDS, checked, as ArrayRecord.

A dataset's own builder says where its pairs are; this base reads each one once, checks it completely, on all
cores, and writes it, still encoded, into ArrayRecord shards. TFDS writes into a directory of another name and
renames it when everything is there, so a preparation that fails or is killed leaves nothing that looks whole;
after an interruption the shards that were finished serve the next attempt. TensorFlow is never imported.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from danet_jax.classes import Classes
from danet_jax.data.builders import shards
from danet_jax.data.builders.class_list import refuse_only_class
from danet_jax.data.builders.label_files import Palettes
from danet_jax.data.builders.lock import preparing
from danet_jax.data.builders.pair import Missing, Pair, PairReader, check_pair, size_of, without_compression
from danet_jax.data.builders.shards import KeepingWriter, ShardMetadata, shard_ranges
from danet_jax.data.builders.state import fingerprint
from danet_jax.data.builders.tfds_hooks import Info, ReadOnce, WithoutDownloads, quiet
from danet_jax.data.summary import Summary
from danet_jax.data.threads import in_order
from danet_jax.errors import InputError, first_line


class PairsBuilder(WithoutDownloads, tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the builders: pairs of an image and a label map, prepared on first use.

    A subclass sets `VERSION` (raised when what it writes changes), calls `super().__init__` and defines
    `pairs`. Its constructor takes `data_dir`, `root`, `class_names` and `options`, as
    `danet_jax.data.dataset.open_dataset` does, and checks them, but reads no picture.

    Attributes:
      classes: The classes that label values stand for.
      palettes: What reads label files holds their palettes against each other here.
      DESCRIPTION, HOMEPAGE, LICENCE, CITATION: What the dataset's info says of it.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION: ClassVar[str] = ""
    HOMEPAGE: ClassVar[str] = ""
    LICENCE: ClassVar[str] = ""
    CITATION: ClassVar[str] = ""
    classes: Classes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the builder out of TFDS's table of names, where some of them mean its own builders."""
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        variant: str,
        classes: Classes,
        uncompressed: bool = False,
    ):
        """Choose the place on disk.

        Args:
          data_dir: The directory of all prepared data.
          variant: Tells this preparation from others of the same builder: it must change whenever what
            would be written changes (see `fingerprint`). Becomes a directory name.
          classes: The classes that label values stand for.
          uncompressed: Whether pictures are stored without compression, in a preparation of its own: several times
            larger, and decoded in a tenth of the time.
        """
        self.classes = classes
        self._uncompressed = uncompressed
        variant += "_uncompressed" if uncompressed else ""
        self.palettes = Palettes()
        self._writer = KeepingWriter(self.palettes)
        refuse_only_class(self.name, classes.names)
        try:
            with quiet():
                super().__init__(
                    data_dir=data_dir,
                    config=tfds.core.BuilderConfig(name=variant),
                    file_format="array_record",
                )
        except Exception as error:  # whatever a damaged description makes TFDS raise
            raise InputError(
                f"{pathlib.Path(data_dir, self.name, variant)}: its dataset_info.json cannot be read "
                f"({first_line(error)}); delete the folder and run --mode=prepare"
            ) from None

    @abc.abstractmethod
    def pairs(self) -> Mapping[str, Sequence[PairReader]]:
        """Return, for each split, one function per example that reads it from disk.

        Called once, when the data are prepared. The functions are called from several threads; the examples
        are stored in the order of the functions. A `Reader` also tells its example's size; a `Missing` is refused.
        """

    def close(self) -> None:
        """Close what `pairs` opened; its functions cannot be called any more."""

    def wrong_with(self, split: str, summary: Summary) -> str:
        """Return what is wrong with a split though each example may be right; empty if nothing is."""
        del split, summary
        return ""

    def source_state(self) -> Any:
        """Return what changes when the source does (JSON values), unless the variant tells that already.

        A preparation that was interrupted goes on only from the same state.
        """
        return None

    def prepare(self, needed: Mapping[str, str] | None = None) -> None:
        """Prepare the data unless they are prepared already.

        Processes that prepare data in the same directory at the same time wait for each other; one that waited for
        the same data takes what the other has made. If it is interrupted (Ctrl-C, a killed machine), the next call
        goes on after the last finished shard.

        Args:
          needed: Splits that there must be, under the names by which a person knows them.

        Raises:
          InputError: Something about the user's files is wrong, or a split is absent; nothing is left behind.
        """
        self._needed = needed or {}
        if self.is_prepared():
            refuse_absent_splits(self.name, self._needed, self.info.splits)
            return
        top = pathlib.Path(self.data_dir_root)
        with preparing(top, self.name), quiet():
            self._look_again()
            if self.is_prepared():
                refuse_absent_splits(self.name, self._needed, self.info.splits)
                return
            for stale in top.glob("*/*/incomplete.*"):  # of killed preparations: we hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            shutil.rmtree(self.data_dir, ignore_errors=True)  # if somebody removed some of its files
            logging.info("preparing the dataset %s in %s", self.name, self.data_dir)
            try:
                self.download_and_prepare()
                self._forget_unfinished()
                for split, summary in self.summaries().items():
                    if wrong := self.wrong_with(split, summary):
                        raise InputError(wrong)
            except Exception:  # an interruption is none
                self._forget_unfinished()
                shutil.rmtree(self.data_dir, ignore_errors=True)
                raise
            finally:
                self.close()
                for empty in (pathlib.Path(self.data_dir).parent, pathlib.Path(self.data_dir).parent.parent):
                    with contextlib.suppress(OSError):  # not empty when all went well
                        empty.rmdir()

    def is_prepared(self) -> bool:
        """Whether all files of the prepared data are there."""
        # The directory appears under this name by one renaming, when everything is in it.
        splits = self.info.splits.values() if pathlib.Path(self.data_dir).is_dir() else ()
        files = [path for split in splits for path in split.filepaths]
        return bool(files) and all(path.exists() for path in files)

    def summaries(self) -> dict[str, Summary]:
        """Return what each prepared split holds; nothing of data prepared by versions that did not count."""
        described = self._described()
        summaries: dict[str, Summary] = {}
        for split, info in self.info.splits.items():
            parts = [described[name] for name in info.filenames if name in described]
            if len(parts) == len(info.filenames):
                summaries[split] = Summary()
                for part in parts:
                    summaries[split].merge(Summary.from_json(part["summary"]))
        return summaries

    def shard_facts(self, fact: str) -> dict[str, Any]:
        """Return a fact about each shard's file by its name, as it was written: its "bytes", its "digest"."""
        return {name: shard[fact] for name, shard in self._described().items()}

    def damaged_shards(self) -> list[str]:
        """Read all shards' files and return a line for each that is not as it was written."""
        return shards.damaged(pathlib.Path(self.data_dir), self._described())

    def _described(self) -> Mapping[str, Mapping[str, Any]]:
        return self.info.metadata["shards"] if "shards" in self.info.metadata.keys() else {}  # noqa: SIM118  # lazy

    def _look_again(self) -> None:
        """Read what is prepared: another process may have done it since this one looked."""
        if pathlib.Path(self.data_dir, "dataset_info.json").exists():
            self.info.read_from_directory(self.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return Info(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "image": tfds.features.Image(),
                    "label": tfds.features.Image(shape=(None, None, 1)),
                }
            ),
            metadata=ShardMetadata(
                self._writer, names=list(self.classes.names), colours=list(self.classes.colours)
            ),
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            license=self.LICENCE,
            citation=self.CITATION,
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Any]]]]:
        del dl_manager  # nothing is downloaded
        pairs = self.pairs()
        refuse_absent_splits(self.name, self._needed, pairs)
        for reader in itertools.chain(*pairs.values()):
            if isinstance(reader, Missing):
                reader()
        if self._uncompressed:
            pairs = {
                split: [without_compression(reader) for reader in readers] for split, readers in pairs.items()
            }
        sizes = {split: [size_of(reader) for reader in readers] for split, readers in pairs.items()}
        self._check_disk(sum(sum(sizes[split]) for split in sizes))
        state = fingerprint(str(self.VERSION), self.source_state(), sizes)
        unfinished = pathlib.Path(self.data_dir).parent / f"unfinished-{state}"
        self._forget_unfinished(but=unfinished)
        self._writer.go_on(unfinished)
        generators: dict[str, list[Callable[[], Iterator[Any]]]] = {}
        for split, readers in pairs.items():
            if not readers:
                raise InputError(f"{self.name}: the split {split!r} has no images")
            ranges = shard_ranges(sizes[split])
            template = self._get_filename_template(split)
            generators[split] = [
                functools.partial(
                    self._examples,
                    f"{split} {index + 1}/{len(ranges)}",
                    [readers[i] for i in examples],
                    template.sharded_filepath(shard_index=index, num_shards=len(ranges)).name,
                )
                for index, examples in enumerate(ranges)
            ]
        return generators

    def _examples(
        self, title: str, readers: Sequence[PairReader], shard: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._writer.has(shard):  # then TFDS only counts
            yield from (("", {}) for _ in readers)
            return
        pairs = in_order(functools.partial(_checked, len(self.classes)), readers)
        summary = self._writer.summaries[shard] = Summary()
        progress = {"desc": f"Preparing {self.name}, {title}", "unit": " images", "leave": False}
        for pair in tfds.core.utils.tqdm(pairs, total=len(readers), **progress):
            summary.add(pair.name, pair.counts, pair.assumed)
            yield (
                pair.name,
                {"name": pair.name, "image": ReadOnce(pair.image), "label": ReadOnce(pair.label or b"")},
            )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return self._writer

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(pathlib.Path(self.data_dir).parent).free
        if needed > free:
            raise InputError(
                f"{self.name}: needs {needed / 1e9:.1f} GB in {self.data_dir_root}, which has {free / 1e9:.1f} GB; "
                "make room or set dataset.data_dir"
            )

    def _forget_unfinished(self, but: pathlib.Path | None = None) -> None:
        for path in pathlib.Path(self.data_dir).parent.glob("unfinished-*"):
            if path != but:
                shutil.rmtree(path, ignore_errors=True)


def refuse_absent_splits(name: str, needed: Mapping[str, str], existing: Iterable[str]) -> None:
    """Raise InputError if one of the needed splits of a dataset does not exist."""
    existing = tuple(existing)
    for key, split in needed.items():
        if split not in existing:
            raise InputError(f"{key}={split!r}: {name} has no such split; there are: {', '.join(existing)}")


def _checked(class_count: int, read: PairReader) -> Pair:
    pair = read()
    return dataclasses.replace(pair, counts=check_pair(pair, class_count).counts)
