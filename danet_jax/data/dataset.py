"""Data sets by name: prepared on first use, then read by index from ArrayRecord, and compared by their digests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from danet_jax.classes import Classes
from danet_jax.data.summary import Summary, warnings
from danet_jax.errors import InputError, first_line

if TYPE_CHECKING:
    from danet_jax.data.builders.base import PairsBuilder

_BUILDERS = {
    "ade20k": ("ade20k", "Ade20k"),
    "cityscapes": ("cityscapes", "Cityscapes"),
    "coco_stuff10k": ("coco_stuff", "CocoStuff10k"),
    "coco_stuff164k": ("coco_stuff", "CocoStuff164k"),
    "folder": ("folder", "Folder"),
    "pascal_context": ("pascal_context", "PascalContext"),
    "pascal_voc_aug": ("pascal_voc_aug", "PascalVocAug"),
    "scenes": ("scenes", "Scenes"),
}
"""Name of the data set -> module in `danet_jax.data.builders` and class there, imported on first use."""

DATASET_NAMES = tuple(sorted(_BUILDERS))


class EncodedExample(TypedDict):
    """One example as stored: image and label still encoded; `label` is None in a split without labels.

    `bits` says how many bits of 16-bit channels are used, 16 if it is absent.
    """

    name: str
    image: bytes
    label: bytes | None
    bits: NotRequired[int]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
      name: The name it was opened by.
      classes: The classes that label values stand for.
      splits: Number of examples of each split.
      directory: Where the prepared data are; `tfds.builder_from_directory` reads it, too.
      summaries: What each split holds, counted when it was prepared.
      shard_sizes: Bytes of each shard's file by its name, as it was written.
      shard_digests: Digest of each shard's file by its name, as it was written.
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
          InputError: The data were prepared by a version that did not count.
        """
        if split not in self.summaries:
            raise InputError(
                f"{self.directory}: the pixels of each class were not counted when it was prepared; delete it and "
                "run --mode=prepare",
                what=self.directory,
            )
        return self.summaries[split].pixels[: len(self.classes)].tolist()

    def source(self, split: str, *, labelled: str = "") -> EncodedSource:
        """Returns the examples of `split` as a random-access sequence.

        Args:
          split: Its name.
          labelled: The option that chose it, if the split must have labels.

        Raises:
          InputError: There is no such split, or it has no labels though it must.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.name}: no split {split!r}; there are: {', '.join(self.splits)}",
                what=self.name,
                value=split,
                allowed=tuple(self.splits),
            )
        source = EncodedSource(self.directory, split, self.splits[split], self.shard_sizes, self.bits_used)
        if labelled and source[0]["label"] is None:
            raise InputError(
                f"{self.name}: the split {split!r} has no labels; choose another with {labelled}",
                what=labelled,
                value=split,
            )
        return source

    def digest(self, *splits: str) -> dict[str, dict[str, Any]]:
        """Returns what a run stores about its data, as JSON values; `data_changes` compares two of them.

        Returns:
          For each of `splits` the number of `examples`, and the digests `images` (of names and pixels, however they are
          encoded), `labels` (of names and values) and `shards` (of the files). `images` and `labels` are None for data
          that were prepared by version 0.2.0, `shards` for those of earlier versions.
        """
        return {split: self._digest(split) for split in splits}

    def _digest(self, split: str) -> dict[str, Any]:
        summary = self.summaries.get(split)
        pattern = re.compile(rf".+-{re.escape(split)}\.array_record-\d+-of-\d+")
        shards = {name: value for name, value in self.shard_digests.items() if pattern.fullmatch(name)}
        return {
            "examples": self.splits[split],
            "images": _hexadecimal(summary.images_digest if summary else None),
            "labels": _hexadecimal(summary.labels_digest if summary else None),
            "shards": hashlib.sha256(json.dumps(sorted(shards.items())).encode()).hexdigest()[:32]
            if shards
            else None,
        }


class EncodedSource(Sequence[EncodedExample]):
    """The examples of one split, read on access; can be pickled and sent to worker processes."""

    def __init__(
        self,
        directory: str,
        split: str,
        length: int,
        shard_sizes: Mapping[str, int] | None = None,
        bits: int = 16,
    ):
        self._directory, self._split, self._length, self._bits = directory, split, length, bits
        self._shard_sizes = dict(shard_sizes or {})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EncodedExample:  # type: ignore[override]  # no slices, as in Grain
        """Returns an example.

        Raises:
          InputError: A file of the prepared data is missing, cut short or damaged.
        """
        if not -len(self) <= index < len(self):  # array_record raises ValueError, which would not end a loop
            raise IndexError(f"example {index} of {len(self)}")
        records = self._records
        try:
            record = records[index % len(self)]
            name, image, label = record["name"].decode(), record["image"], record["label"] or None
        except Exception as error:  # whatever a damaged shard, or a damaged description of it, makes of it
            raise InputError(
                f"{self._shard_of(index % len(self))}: damaged, example {index} of {self._split} cannot be read "
                f"({first_line(error)}); delete {self._directory} and run --mode=prepare",
                what=str(self._shard_of(index % len(self))),
            ) from None
        return {"name": name, "image": image, "label": label, "bits": self._bits}

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds  # only where something is read: it takes half a second

        try:
            builder = tfds.builder_from_directory(self._directory)
            split = builder.info.splits[self._split]
            self._shards = list(zip(split.filepaths, split.shard_lengths, strict=True))
            for path, _ in self._shards:
                written, found = self._shard_sizes.get(path.name), path.stat().length
                if written not in (None, found):
                    raise InputError(
                        f"{path}: has {found} bytes, {written} were written; delete {self._directory} and run "
                        "--mode=prepare",
                        what=str(path),
                        value=found,
                        allowed=written,
                    )
            return builder.as_data_source(
                self._split,
                decoders={"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()},
            )
        except InputError:
            raise
        except Exception as error:  # whatever a damaged description or a missing file makes of it
            raise InputError(
                f"{self._directory}: cannot be opened ({first_line(error)}); delete it and run --mode=prepare",
                what=self._directory,
            ) from None

    def _shard_of(self, index: int) -> Any:
        """The file that holds an example."""
        for path, length in self._shards:
            if index < length:
                return path
            index -= length
        return self._directory

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_records"}


def dataset_builder(
    name: str,
    *,
    root: str | pathlib.Path | None = None,
    data_dir: str | pathlib.Path = "data",
    class_names: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> PairsBuilder:
    """Returns the builder of a data set, which has prepared nothing yet; takes the arguments of `open_dataset`.

    Raises:
      InputError: The name or an option is unknown, or a `folder` lacks something.
    """
    if name not in _BUILDERS:
        raise InputError(
            f"dataset.name: no dataset {name!r}; there are: {', '.join(DATASET_NAMES)}",
            what="dataset.name",
            value=name,
            allowed=DATASET_NAMES,
        )
    module, builder_class = _BUILDERS[name]
    create = getattr(importlib.import_module(f"danet_jax.data.builders.{module}"), builder_class)
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
    """Opens a data set, and prepares it first if necessary.

    Every image is decoded and checked during the preparation, so whatever opens can be trained on.

    Args:
      name: One of `DATASET_NAMES`.
      root: Where the user's files (or the published archives) are; `scenes` needs none.
      data_dir: Where prepared data are kept.
      class_names: The classes of a `folder` without `classes.csv`.
      options: Options of the dataset, see its builder.
      needed: Splits that must exist, by the names of the options that choose them.

    Raises:
      InputError: The name is unknown, a split is absent, or something is wrong with the user's files. Nothing
        incomplete is left on disk.
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
    """Returns how data differ from those of an earlier `Dataset.digest`, a line for each change.

    A split that only one of the two describes is not compared.
    """
    changes = []
    for split in before.keys() & now.keys():
        one, other = before[split], now[split]
        count = other["examples"] - one["examples"]
        if count:
            verb = "added" if count > 0 else "removed"
            changes.append(
                f"{split}: {abs(count)} images {verb} ({one['examples']} before, {other['examples']} now)"
            )
        elif None in (one["images"], other["images"]):
            if one["shards"] and other["shards"] and one["shards"] != other["shards"]:
                changes.append(f"{split}: images or labels edited, or prepared again by another version")
        elif one["images"] != other["images"]:
            changes.append(f"{split}: images edited, renamed or replaced")
        elif one["labels"] != other["labels"]:
            changes.append(f"{split}: labels edited")
    return sorted(changes)


def _hexadecimal(digest: int | None) -> str | None:
    return None if digest is None else f"{digest:032x}"
