"""What the builders of published datasets share: finding the publisher's files, and refusing incomplete ones."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import base
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.finding import find_all, hint
from danet_jax.data.builders.pair import Missing, Pair, PairReader, Reader, turned_upright
from danet_jax.data.builders.state import file_state, fingerprint
from danet_jax.data.files import walk
from danet_jax.errors import InputError
from danet_jax.weights.download import download

_COPY = re.compile(r"( ?\(\d+\)| copy| - Copy)($|/)")
"""What browsers and file managers put behind the name of a second copy."""

_COMMON_OPTIONS = {"download": False, "allow_partial": False, "uncompressed": False}


class PublishedBuilder(base.PairsBuilder):
    """Base class of the builders of published datasets, which are the same for everybody.

    What is prepared depends only on the options, so the sources can be deleted afterwards. Every dataset has
    the options `download` (fetch what the publisher lets anybody fetch and `root` does not hold),
    `allow_partial` (take fewer examples than were published) and `uncompressed` (store pictures without compression).

    A subclass sets the class variables and defines `sources` and `read`.

    Attributes:
      root: Where the archives, or the folders extracted from them, are.
      options: The dataset's options, complete.
    """

    TITLE: ClassVar[str]
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    COUNTS: ClassVar[Mapping[str, int]]
    """Number of examples of each split as published; a split that is not here may have any."""

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        root: str | pathlib.Path | None = None,
        class_names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        """Choose the place on disk; no file is read.

        Args:
          data_dir: The directory of all prepared data.
          root: Where the publisher's archives are, or the folders extracted from them; by default
            `data_dir/downloads/manual`, as with TFDS.
          class_names: Must be empty: the publisher names the classes.
          options: See the dataset's `OPTIONS`, and those that all have.

        Raises:
          InputError: An option does not exist, or class names are given.
        """
        if class_names:
            raise InputError(f"dataset.class_names: {self.name} has its own classes; leave it empty")
        self.options = base.checked_options(self.name, options, {**self.OPTIONS, **_COMMON_OPTIONS})
        self.root = pathlib.Path(root or pathlib.Path(data_dir, "downloads", "manual"))
        self._opened = contextlib.ExitStack()
        variant = self.variant()
        if self.options["allow_partial"]:
            variant += f"_partial_{fingerprint(self.source_state())}"
        super().__init__(
            data_dir=data_dir,
            variant=variant,
            classes=self.label_classes(),
            uncompressed=self.options["uncompressed"],
        )

    def variant(self) -> str:
        """Return a name for what the options choose to prepare."""
        raise NotImplementedError

    def label_classes(self) -> Classes:
        """Return the classes that the options choose."""
        raise NotImplementedError

    def sources(self) -> tuple[Source, ...]:
        """Return the archives that the options need."""
        raise NotImplementedError

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Return the readers of each split from the opened `sources`."""
        raise NotImplementedError

    def pairs(self) -> Mapping[str, list[PairReader]]:
        """Find the sources and return readers of what they hold."""
        scratch = pathlib.Path(self.data_dir_root)
        if not scratch.exists():
            scratch.mkdir(parents=True)
            self._opened.callback(_remove_if_empty, scratch)
        files = []
        for source, place in zip(self.sources(), self._places(), strict=True):
            files.append(Files(place, source, scratch))
            self._opened.callback(files[-1].close)
        splits = self.read(*files)
        if self.options["allow_partial"]:
            return splits
        return {split: [*self._lacking(split, readers), *readers] for split, readers in splits.items()}

    def close(self) -> None:
        """Close the archives."""
        self._opened.close()

    def source_state(self) -> Any:
        """Return what changes when an archive does."""
        sources = self.sources()
        found = zip(sources, find_all(self.root, sources), strict=True)
        return [(str(place.resolve()), _state(place, source)) for source, place in found if place]

    def source_report(self) -> list[str]:
        """Return a line about each source: where it was found, or where to get it."""
        report = []
        sources = self.sources()
        for source, place in zip(sources, find_all(self.root, sources), strict=True):
            state = f"found {place}" if place else f"missing; from {source.url}"
            report.append(f"{source}: {state}")
        return report

    def _places(self) -> list[pathlib.Path]:
        sources, missing = self.sources(), []
        for source, place in zip(sources, find_all(self.root, sources), strict=True):
            if place is None and self.options["download"] and source.direct:
                download(source.url, self.root / source.archive, source.digest)
            elif place is None:
                missing.append(source)
        if missing:
            raise InputError(self._missing(missing))
        return [place for place in find_all(self.root, sources) if place]

    def _missing(self, missing: Sequence[Source]) -> str:
        urls = dict.fromkeys(source.url for source in missing)
        wanted = "; ".join(
            f"{' and '.join(str(source) for source in missing if source.url == url)} from {url}"
            for url in urls
        )
        total = sum(source.gigabytes for source in self.sources())
        near = hint(self.root, missing, none_found=len(missing) == len(self.sources()))
        fetch = (
            ", or set dataset.options.download=True"
            if all(source.direct for source in missing) and not self.options["download"]
            else ""
        )
        return (
            f"{self.name}: {self.root} lacks {wanted}; put the archives there or the folders extracted from them "
            f"(or set dataset.root to where they are){fetch}{near}; preparing takes about {total:.2g} GB more in "
            f"{self.data_dir_root}"
        )

    def _lacking(self, split: str, readers: Sequence[PairReader]) -> Iterator[Missing]:
        """Says that there are not as many examples as were published."""
        count = len(readers)
        published = self.COUNTS.get(split, count)
        if count != published:
            remedy = "complete the files" if count < published else "remove what is too much"
            yield Missing(
                f"{self.name}: {count} examples in {split} where {published} were published; {remedy} "
                f"in {self.root}, or set dataset.options.allow_partial=True to go "
                f"{'without' if count < published else 'with it'}"
            )


def _state(place: pathlib.Path, source: Source) -> Any:
    """Of an archive, or of all files of an extracted one, those of linked folders, too."""
    if place.is_file():
        return file_state(place)
    parts = [place / part for part in source.parts]
    files = [path for part in parts if part.exists() for path in (walk(part) if part.is_dir() else [part])]
    return fingerprint([(str(path.relative_to(place)), file_state(path)) for path in files])


def pair_reader(
    name: str,
    images: Files,
    image: str,
    labels: Files | None = None,
    label: str = "",
    convert: Callable[[bytes, str], bytes] | None = None,
) -> PairReader:
    """Return the reader of one example, or what says that a file of it is missing.

    Args:
      name: The example's name.
      images: Where the image is.
      image: Its path there.
      labels: Where the label is; None if there is none.
      label: Its path there.
      convert: Makes an 8-bit PNG of train ids of the label file's content, given also its name; None if it is
        one already.
    """
    for files, path, kind in ((images, image, "image"), (labels, label, "label")):
        if kind == "label" and files is not None and path not in files and _COPY.search(name):
            return Missing(f"{images.where(image)}: a copy of another file by its name; remove it")
        if files is not None and path not in files:
            return Missing(
                f"{files.where(path)}: missing, the {kind} of {name}; get the dataset's files again"
            )
    size = images.size(image) + (labels.size(label) if labels else 0)
    return Reader(functools.partial(_read, name, images, image, labels, label, convert), size)


def _read(
    name: str,
    images: Files,
    image: str,
    labels: Files | None,
    label: str,
    convert: Callable[[bytes, str], bytes] | None,
) -> Pair:
    where = labels.where(label) if labels else ""
    data = labels.read(label) if labels else None
    if data is not None and convert is not None:
        data = convert(data, where)
    pair = Pair(name, images.read(image), data, images.where(image), where)
    # A test server compares with the pixels as they are stored: what has no label stays so.
    return pair if data is None else turned_upright(pair, None)


def below(files: Files, folder: str, suffix: str) -> dict[str, str]:
    """Return the files in a folder that end with `suffix`, as name -> path, sorted.

    The name is the path below `folder` without the suffix.

    Raises:
      InputError: There are none.
    """
    found = {
        path[len(folder) + 1 : -len(suffix)]: path
        for path in files.names
        if path.startswith(folder + "/") and path.endswith(suffix)
    }
    if not found:
        raise InputError(f"{files.where(folder)}: no {suffix} files in it; get the dataset's files again")
    return found


def orphans(images: Iterable[str], labels: Mapping[str, str], files: Files) -> list[Missing]:
    """Return what says so of every label in `labels` (name -> path in `files`) without an image of its name."""
    return [
        Missing(f"{files.where(labels[name])}: a label without its image; get the images again, or remove it")
        for name in sorted(set(labels) - set(images))
    ]


def _remove_if_empty(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
