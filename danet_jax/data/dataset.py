"""Opens data sets by name: prepares them on first use, reads them by index from ArrayRecord, compares digests."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from danet_jax.classes import Classes
from danet_jax.data.files import option_error
from danet_jax.data.summary import Summary, warnings
from danet_jax.errors import InputError, first_line

if TYPE_CHECKING:
    from danet_jax.data.builders.base import PairsBuilder

_MODULES = {
    "ade20k": "ade20k",
    "cityscapes": "cityscapes",
    "coco_stuff10k": "coco_stuff",
    "coco_stuff164k": "coco_stuff",
    "folder": "folder",
    "pascal_context": "pascal_context",
    "pascal_voc_aug": "pascal_voc_aug",
    "scenes": "scenes",
}
"""The module of `danet_jax.data.builders` that defines each data set's builder; it is imported on first use."""

DATASET_NAMES = tuple(_MODULES)


class EncodedExample(TypedDict):
    """A stored example, whose image and label are still encoded; `label` is None in a split without labels.

    `bits` is the number of bits that are used in 16-bit channels; it defaults to 16.
    """

    name: str
    image: bytes
    label: bytes | None
    bits: NotRequired[int]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      name: The name by which it was opened.
      classes: The classes that label values stand for.
      splits: Number of examples of each split.
      directory: The directory of the prepared data, which `tfds.builder_from_directory` can read as well.
      summaries: The contents of each split, counted when it was prepared.
      shard_sizes: Size in bytes of each shard file when it was written, by file name.
      shard_digests: Digest of each shard file when it was written, by file name.
      bits_used: How many bits of 16-bit channels are used.
    """

    name: str
    classes: Classes
    splits: Mapping[str, int]
    directory: str
    summaries: Mapping[str, Summary] = dataclasses.field(default_factory=dict, compare=False)
    shard_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict, compare=False)
    shard_digests: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    bits_used: int = 16

    @property
    def bits(self) -> int:
        """The bits per channel of images for a network trained on these data: 8, unless some images have more."""
        return self.bits_used if any(summary.deep for summary in self.summaries.values()) else 8

    def warnings(self) -> list[str]:
        """Returns a line for everything about the data that should be reported before training on them."""
        return warnings(self.summaries, self.classes)

    def class_pixels(self, split: str) -> list[int]:
        """Returns how many pixels of `split` are labelled with each class.

        Raises:
          InputError: The data were prepared by a version that did not count pixels.
        """
        if split not in self.summaries:
            problem = "the pixels of each class were not counted when it was prepared"
            raise InputError.for_file(self.directory, f"{problem}; delete it and run --mode=prepare")
        return self.summaries[split].pixels[: len(self.classes)].tolist()

    def source(self, split: str, *, labelled: str = "") -> EncodedSource:
        """Returns the examples of `split` as a random-access sequence.

        Args:
          split: The name of the split.
          labelled: The option that chose the split; if it is given, the split must have labels.

        Raises:
          InputError: The split does not exist, or it must have labels and has none.
        """
        if split not in self.splits:
            problem = f"the split {split!r} does not exist; there are: {', '.join(self.splits)}"
            raise InputError.for_file(self.name, problem, value=split, allowed=tuple(self.splits))
        source = EncodedSource(self.directory, split, self.splits[split], self.shard_sizes, self.bits_used)
        if labelled and source[0]["label"] is None:
            problem = f"{self.name}: the split {split!r} has no labels; choose another with {labelled}"
            raise InputError(problem, what=labelled, value=split)
        return source

    def digest(self, *splits: str) -> dict[str, dict[str, Any]]:
        """Returns the record of its data that a run stores, as JSON values; `data_changes` compares two records.

        Returns:
          For each of `splits`, the number of `examples` and the digests `images` (names and pixels, regardless of the
          encoding), `labels` (names and values) and `shards` (files). `images` and `labels` are None for data that
          were prepared by version 0.2.0, `shards` for data from earlier versions.
        """
        digests = {}
        for split in splits:
            summary = self.summaries.get(split)
            pattern = re.compile(rf".+-{re.escape(split)}\.array_record-\d+-of-\d+")
            shards = [item for item in sorted(self.shard_digests.items()) if pattern.fullmatch(item[0])]
            digests[split] = {
                "examples": self.splits[split],
                "images": _hexadecimal(summary.images_digest if summary else None),
                "labels": _hexadecimal(summary.labels_digest if summary else None),
                "shards": hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:32] if shards else None,
            }
        return digests


class EncodedSource(Sequence[EncodedExample]):
    """The examples of one split, read on access; it can be pickled and sent to worker processes."""

    def __init__(self, directory: str, split: str, length: int, shard_sizes: Mapping[str, int], bits: int):
        self._directory, self._split, self._length, self._bits = directory, split, length, bits
        self._shard_sizes = dict(shard_sizes)
        self._remedy = f"delete {directory} and run --mode=prepare"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EncodedExample:  # type: ignore[override]  # no slices, as in Grain
        """Returns an example.

        Raises:
          InputError: A file of the prepared data is missing, cut short or damaged.
        """
        # array_record would raise ValueError, which does not end iteration.
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        records, ends, paths = self._opened
        try:
            record = records[index]
            name, image, label = record["name"].decode(), record["image"], record["label"] or None
        except Exception as error:  # A damaged shard or description can raise any exception.
            path = paths[bisect.bisect_right(ends, index)]
            problem = f"damaged, example {index} of {self._split} cannot be read ({first_line(error)})"
            raise InputError.for_file(path, f"{problem}; {self._remedy}") from None
        return {"name": name, "image": image, "label": label, "bits": self._bits}

    @functools.cached_property
    def _opened(self) -> tuple[Any, list[int], list[Any]]:
        """The records, the cumulative number of examples at the end of each shard, and the shard files."""
        import tensorflow_datasets as tfds  # The import takes half a second, so it waits until data are read.

        try:
            builder = tfds.builder_from_directory(self._directory)
            split = builder.info.splits[self._split]
            for path in split.filepaths:
                written, found = self._shard_sizes.get(path.name), path.stat().length
                if written not in (None, found):
                    problem = f"has {found} bytes, but {written} were written; {self._remedy}"
                    raise InputError.for_file(path, problem, value=found, allowed=written)
            encoded = {name: tfds.decode.SkipDecoding() for name in ("image", "label")}
            records = builder.as_data_source(self._split, decoders=encoded)
            return records, list(itertools.accumulate(split.shard_lengths)), split.filepaths
        except InputError:
            raise
        except Exception as error:  # A damaged description or a missing file can raise any exception.
            problem = f"cannot be opened ({first_line(error)}); {self._remedy}"
            raise InputError.for_file(self._directory, problem) from None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_opened"}


def dataset_builder(
    name: str,
    *,
    root: str | pathlib.Path | None = None,
    data_dir: str | pathlib.Path = "data",
    class_names: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> PairsBuilder:
    """Returns the builder of a data set without preparing anything; takes the arguments of `open_dataset`.

    Raises:
      InputError: The name or an option is unknown, or files of a `folder` are missing.
    """
    if name not in _MODULES:
        raise option_error(
            "name", name, f"does not exist; there are: {', '.join(DATASET_NAMES)}", DATASET_NAMES
        )
    module = importlib.import_module(f"danet_jax.data.builders.{_MODULES[name]}")
    create = getattr(module, "".join(map(str.capitalize, name.split("_"))))
    return create(data_dir=data_dir, root=root, class_names=class_names, options=options)


def open_dataset(
    name: str,
    *,
    root: str | pathlib.Path | None = None,
    data_dir: str | pathlib.Path = "data",
    class_names: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    needed: Mapping[str, str] | None = None,
) -> Dataset:
    """Opens a data set, preparing it first if necessary.

    Every image is decoded and checked during preparation, so any data set that opens can be trained on.

    Args:
      name: One of `DATASET_NAMES`.
      root: The directory of the user's files or of the published archives; `scenes` needs none.
      data_dir: The directory of all prepared data.
      class_names: The classes of a `folder` without `classes.csv`.
      options: Options of the data set; see its builder.
      needed: Splits that must exist, by the names of the options that choose them.

    Returns:
      The prepared data set.

    Raises:
      InputError: The name is unknown, a split is missing, or the user's files are invalid. Nothing incomplete is
        left on disk.
    """
    builder = dataset_builder(name, root=root, data_dir=data_dir, class_names=class_names, options=options)
    builder.prepare(needed)
    described = builder.described_shards()
    return Dataset(
        name,
        builder.classes,
        {split: info.num_examples for split, info in builder.info.splits.items()},
        str(builder.data_dir),
        builder.summaries(),
        {name: shard["bytes"] for name, shard in described.items()},
        {name: shard["digest"] for name, shard in described.items()},
        builder.bits,
    )


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compares data with an earlier `Dataset.digest` and returns one line for each change.

    A split that only one of the two digests describes is not compared.
    """
    changes = []
    for split in sorted(before.keys() & now.keys()):
        one, other = before[split], now[split]
        count = other["examples"] - one["examples"]
        if count:
            verb = "added" if count > 0 else "removed"
            change = f"{abs(count)} images {verb} ({one['examples']} before, {other['examples']} now)"
        elif None in (one["images"], other["images"]):
            if None in (one["shards"], other["shards"]) or one["shards"] == other["shards"]:
                continue
            change = "images or labels edited, or prepared again by another version"
        elif one["images"] != other["images"]:
            change = "images edited, renamed or replaced"
        elif one["labels"] != other["labels"]:
            change = "labels edited"
        else:
            continue
        changes.append(f"{split}: {change}")
    return changes


def _hexadecimal(digest: int | None) -> str | None:
    return None if digest is None else f"{digest:032x}"
