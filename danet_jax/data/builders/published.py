"""The base class for published data sets, which finds the publisher's files and refuses incomplete ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.resources
import pathlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from danet_jax.data.builders import base
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.finding import find, find_all, hint
from danet_jax.data.builders.pair import Missing, Pair, PairReader, Reader, turn_upright
from danet_jax.data.builders.state import SourceFiles, fingerprint
from danet_jax.data.labels import LabelMapping
from danet_jax.errors import InputError
from danet_jax.weights.download import download

_COPY = re.compile(r"( ?\(\d+\)| copy| - Copy)($|/)")
"""Matches the suffixes that browsers and file managers append to the name of a second copy."""

_OPTIONS = ("download", "allow_partial", "uncompressed")

_TABLE = importlib.resources.files("danet_jax.data").joinpath("tables/published.toml")
PUBLISHED = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
"""Texts, numbers of examples and archives of each data set, as published."""


class Part(NamedTuple):
    """The images or the labels of a split.

    Attributes:
      files: The files that contain them.
      pattern: The path of an example's file, with `{}` in place of the example's name.
      convert: Converts the content and the name of a label file to a PNG of train ids; None for images.
    """

    files: Files
    pattern: str
    convert: Callable[[bytes, str], bytes] | None = None

    def path(self, name: str) -> str:
        """Returns the path of an example's file."""
        return self.pattern.replace("{}", name)

    def where(self, name: str) -> str:
        """Returns the name of an example's file in error messages."""
        return self.files.where(self.path(name))

    def names(self) -> set[str]:
        """Returns the names of all examples that have a file."""
        before, after = self.pattern.split("{}")
        paths = (path for path in self.files.names if path.startswith(before) and path.endswith(after))
        return {path[len(before) : -len(after)] for path in paths}


class PublishedBuilder(base.PairsBuilder):
    """Base class of the builders of published data sets, which are the same for everybody.

    The prepared data depend only on the options, so the sources can be deleted afterwards. With `allow_partial` they
    also depend on the content of the sources, which is compared whenever the data set is opened. Every data set has the
    options `download` (download freely available archives that `root` lacks), `allow_partial` (accept fewer examples
    than were published) and `uncompressed`.

    A subclass sets the class variables and defines `read`.

    Attributes:
      root: The folder of the archives, or of the folders extracted from them; by default `data_dir/downloads/manual`,
        as in TFDS.
    """

    VARIANT: ClassVar[str]
    """Name of the preparation without any of `OPTIONS`."""
    MAPPING: ClassVar[LabelMapping]
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Names of the data set's own switches, which are off by default."""

    @property
    def defaults(self) -> Mapping[str, bool]:
        """All options are switches that are off by default."""
        return dict.fromkeys((*self.OPTIONS, *_OPTIONS), False)

    def configure(
        self, data_dir: pathlib.Path, root: str | pathlib.Path | None, class_names: tuple[str, ...]
    ) -> base.Preparation:
        """Chooses the preparation; the publisher names the classes."""
        self.refuse_class_names(class_names)
        self.root = pathlib.Path(root or data_dir / "downloads/manual")
        self._opened = contextlib.ExitStack()
        if not self.options["allow_partial"]:
            return base.Preparation(self.variant, self.mapping.classes)
        sources = SourceFiles(data_dir, self.name, self.root)
        content, former = (fingerprint(state) for state in self._source_states(sources))
        partial = f"{self.variant}_partial_"
        return base.Preparation(partial + content, self.mapping.classes, sources, partial + former)

    @property
    def variant(self) -> str:
        """The name of the preparation that the options select."""
        return "_and_".join([self.VARIANT, *(option for option in self.OPTIONS if self.options[option])])

    @property
    def mapping(self) -> LabelMapping:
        """The mapping from the publisher's ids to the train ids that the options select."""
        return self.MAPPING

    @property
    def texts(self) -> Mapping[str, str]:
        """The title, description, homepage, licence and citation."""
        return {key: value for key, value in PUBLISHED[self.name].items() if isinstance(value, str)}

    def sources(self) -> tuple[Source, ...]:
        """Returns the archives that the options require, or the sources that replace them."""
        listed = [Source(**values) for values in PUBLISHED[self.name]["archives"]]
        sources = {s.archive: s for s in listed if not s.option or self.options[s.option]}
        for source in [source for source in listed if source.replaces]:
            others = [sources[archive] for archive in source.replaces]
            used = find(self.root, source) and not all(find(self.root, other) for other in others)
            for unused in others if used else [source]:
                del sources[unused.archive]
        return tuple(sources.values())

    def read(self, files: Mapping[str, Files]) -> dict[str, list[PairReader]]:
        """Returns the readers of each split, given the files of each archive in `sources`."""
        raise NotImplementedError

    def finish(self, pair: Pair) -> Pair:
        """Returns an example as it should be stored; a subclass may change its name or add assumptions."""
        return pair

    def readers(
        self, images: Part, labels: Part | None = None, names: Iterable[str] | None = None
    ) -> list[PairReader]:
        """Returns the readers of a split's examples, sorted by name: by default, those of all images and labels."""
        if names is None:
            names = images.names() | (labels.names() if labels else set())
        if not names and not self.options["allow_partial"]:
            raise InputError.for_file(
                images.where("*"),
                "missing; get the data set's files again, or set dataset.options.allow_partial=True to prepare without "
                "them",
            )
        return [self.reader(name, images, labels) for name in sorted(names)]

    def reader(self, name: str, images: Part, labels: Part | None = None) -> PairReader:
        """Returns the reader of one example, or a `Missing` if a file is missing."""
        for kind, part, other in (("image", images, labels), ("label", labels, images)):
            if part is None or part.path(name) in part.files:
                continue
            where = part.where(name)
            found = other.where(name) if other and other.path(name) in other.files else name
            reason = f"missing, the {kind} of {found}; get the data set's files again"
            if kind == "image":
                reason += ", or set dataset.options.allow_partial=True to leave out such examples"
            elif _COPY.search(name):
                where, reason = found, "a copy of another file by its name; remove it"
            return Missing(InputError.for_file(where, reason), of_image=kind == "image")
        size = sum(part.files.size(part.path(name)) for part in (images, labels) if part)
        return Reader(functools.partial(self._read, name, images, labels), size)

    def _read(self, name: str, images: Part, labels: Part | None) -> Pair:
        pair = Pair(name, images.files.read(images.path(name)), None, images.where(name))
        if labels and labels.convert:
            where = labels.where(name)
            label = labels.convert(labels.files.read(labels.path(name)), where)
            # Test servers compare with the pixels as stored, so images without labels are not turned.
            pair = turn_upright(dataclasses.replace(pair, label=label, label_file=where), None)
        return self.finish(pair)

    def pairs(self) -> Mapping[str, list[PairReader]]:
        """Finds the sources and returns the readers of each split."""
        located = self._download()
        splits = self.read({source.archive: Files(path, source, self._opened) for path, source in located})
        if not self.options["allow_partial"]:
            for split, readers in splits.items():
                readers[:0] = self._refused_count(split, len(readers))
            return splits
        splits = {split: self._with_images(split, readers) for split, readers in splits.items()}
        return {split: readers for split, readers in splits.items() if readers} or splits

    def close(self) -> None:
        """Closes the archives."""
        self._opened.close()

    def _source_states(self, sources: SourceFiles) -> tuple[Any, Any]:
        """Returns the digests of all sources, and their sizes and times for comparison with version 0.2.0."""
        content, former = [], []
        for top, source in self._located():
            if top is None:
                continue
            names = {path: str(path.relative_to(top)) for path in source.paths(top)}
            digests = sources.digests(names)
            content.append((str(top.resolve()), [(names[path], digests[path]) for path in names]))
            states = [(names[path], sources.size_and_time(path)) for path in names]
            former.append((str(top.resolve()), states[0][1] if top.is_file() else fingerprint(states)))
        return content, former

    def source_report(self) -> list[str]:
        """Returns a line about each source: where it was found, or where to get it."""
        return [
            f"{source}: " + (f"found {path}" if path else f"missing; from {source.url}")
            for path, source in self._located()
        ]

    def _located(self) -> list[tuple[pathlib.Path | None, Source]]:
        """Returns the sources and where they are; None for a missing one."""
        sources = self.sources()
        return list(zip(find_all(self.root, sources), sources, strict=True))

    def _download(self) -> list[tuple[pathlib.Path, Source]]:
        """Returns the sources and where they are, downloading them if allowed; refuses missing ones."""
        missing = [source for path, source in self._located() if path is None]
        if self.options["download"]:
            for source in missing:
                if source.direct:
                    download(source.url, self.root / source.archive, source.digest)
            missing = [source for source in missing if not source.direct]
        if missing:
            raise self._missing(missing)
        return [(path, source) for path, source in self._located() if path]

    def _missing(self, missing: Sequence[Source]) -> InputError:
        urls = dict.fromkeys(source.url for source in missing)
        absent = "; ".join(
            f"{' and '.join(str(source) for source in missing if source.url == url)} from {url}"
            for url in urls
        )
        downloadable = all(source.direct for source in missing) and not self.options["download"]
        gigabytes = sum(source.gigabytes for source in self.sources())
        return InputError.for_file(
            self.root,
            f"{self.name} lacks {absent}; put the archives there or the folders extracted from them (or set "
            "dataset.root to where they are)"
            + (", or set dataset.options.download=True" if downloadable else "")
            + hint(self.root, missing)
            + f"; preparing takes about {gigabytes:.2g} GB more in {self.data_dir_root}",
        )

    def _refused_count(self, split: str, count: int) -> list[Missing]:
        """Returns a `Missing` that refuses a split whose number of examples differs from the published one."""
        published = PUBLISHED[self.name]["counts"].get(split, count)
        if count == published:
            return []
        remedy = "complete the files" if count < published else "remove the additional ones"
        error = InputError.for_file(
            self.root,
            f"{self.name} has {count} examples in {split}, but {published} were published; {remedy}, or set "
            "dataset.options.allow_partial=True to prepare these",
            value=count,
            allowed=published,
        )
        return [Missing(error)]

    def _with_images(self, split: str, readers: Sequence[PairReader]) -> list[PairReader]:
        """Returns the readers of the examples that have an image, and reports how many do not."""
        kept = [reader for reader in readers if not (isinstance(reader, Missing) and reader.of_image)]
        if omitted := len(readers) - len(kept):
            count = f"{omitted} of {len(readers)} examples"
            print(f"{self.name}, {split}: {count} have no image and are left out", file=sys.stderr)
        return kept
