"""What the builders of published datasets share: finding the publisher's files, and refusing incomplete ones."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from danet_jax.classes import Classes
from danet_jax.data.builders import base
from danet_jax.data.builders.archives import Files, Source
from danet_jax.data.builders.finding import find_all, hint
from danet_jax.data.builders.pair import Missing, Pair, PairReader, Reader, turned_upright
from danet_jax.data.builders.state import SourceFiles, fingerprint
from danet_jax.data.files import walk
from danet_jax.errors import InputError
from danet_jax.weights.download import download

_COPY = re.compile(r"( ?\(\d+\)| copy| - Copy)($|/)")
"""What browsers and file managers append to the name of a second copy."""

_COMMON_OPTIONS = {"download": False, "allow_partial": False, "uncompressed": False}


class PublishedBuilder(base.PairsBuilder):
    """Base class of the builders of published datasets, which are the same for everybody.

    What is prepared depends only on the options, so the sources can be deleted afterwards. Every dataset has
    the options `download` (fetch what anybody may download and `root` does not hold), `allow_partial` (accept fewer
    examples than were published) and `uncompressed` (store images without compression).

    A subclass sets the class variables and defines `sources` and `read`.

    Attributes:
      root: Where the archives, or the folders extracted from them, are.
      options: The dataset's options, complete.
    """

    TITLE: ClassVar[str]
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    COUNTS: ClassVar[Mapping[str, int]]
    """Number of examples of each split as published; a split that is not listed may have any number."""
    LEAVES_OUT: ClassVar[bool] = False
    """Whether `allow_partial` leaves out examples whose image is missing."""

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        root: str | pathlib.Path | None = None,
        class_names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        """Chooses the place on disk; only `allow_partial` reads files.

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
            raise InputError(
                f"dataset.class_names: {self.name} has its own classes; leave it empty",
                what="dataset.class_names",
                value=class_names,
            )
        self.options = base.checked_options(self.name, options, {**self.OPTIONS, **_COMMON_OPTIONS})
        self.root = pathlib.Path(root or pathlib.Path(data_dir, "downloads", "manual"))
        self._opened = contextlib.ExitStack()
        variant, former, sources = self.variant(), "", None
        if self.options["allow_partial"]:
            sources = SourceFiles(data_dir, self.name, self.root)
            content, sizes_and_times = self._source_states(sources)
            former = f"{variant}_partial_{fingerprint(sizes_and_times)}"
            variant = f"{variant}_partial_{fingerprint(content)}"
        super().__init__(
            data_dir=data_dir,
            variant=variant,
            former=former,
            sources=sources,
            classes=self.label_classes(),
            uncompressed=self.options["uncompressed"],
        )

    def variant(self) -> str:
        """Returns a name for what the options choose to prepare."""
        raise NotImplementedError

    def label_classes(self) -> Classes:
        """Returns the classes that the options choose."""
        raise NotImplementedError

    def sources(self) -> tuple[Source, ...]:
        """Returns the archives that the options need."""
        raise NotImplementedError

    def read(self, *files: Files) -> Mapping[str, list[PairReader]]:
        """Returns the readers of each split from the opened `sources`."""
        raise NotImplementedError

    def pairs(self) -> Mapping[str, list[PairReader]]:
        """Finds the sources and returns the readers of each split."""
        scratch = pathlib.Path(self.data_dir_root)
        if not scratch.exists():
            scratch.mkdir(parents=True)
            self._opened.callback(_remove_if_empty, scratch)
        files = []
        for source, place in zip(self.sources(), self._places(), strict=True):
            files.append(Files(place, source, scratch))
            self._opened.callback(files[-1].close)
        splits = self.read(*files)
        if not self.options["allow_partial"]:
            return {split: [*self._lacking(split, readers), *readers] for split, readers in splits.items()}
        if self.LEAVES_OUT:
            splits = {split: self._with_images(split, readers) for split, readers in splits.items()}
            splits = {split: readers for split, readers in splits.items() if readers} or splits
        return splits

    def close(self) -> None:
        """Closes the archives."""
        self._opened.close()

    def _source_states(self, sources: SourceFiles) -> tuple[Any, Any]:
        """The content of all sources, and their sizes and times, which version 0.2.0 compared."""
        content, former = [], []
        for place, source in zip(find_all(self.root, self.sources()), self.sources(), strict=True):
            if place is None:
                continue
            paths = _paths(place, source)
            digests = sources.digests(paths)
            names = {path: str(path.relative_to(place)) for path in paths}
            content.append((str(place.resolve()), [(names[path], digests[path]) for path in paths]))
            states = [(names[path], sources.size_and_time(path)) for path in paths]
            former.append((str(place.resolve()), states[0][1] if place.is_file() else fingerprint(states)))
        return content, former

    def source_report(self) -> list[str]:
        """Returns a line about each source: where it was found, or where to get it."""
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
            raise InputError(self._missing(missing), what=str(self.root))
        return [place for place in find_all(self.root, sources) if place]

    def _missing(self, missing: Sequence[Source]) -> str:
        urls = dict.fromkeys(source.url for source in missing)
        lacking = "; ".join(
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
            f"{self.name}: {self.root} lacks {lacking}; put the archives there or the folders extracted from them "
            f"(or set dataset.root to where they are){fetch}{near}; preparing takes about {total:.2g} GB more in "
            f"{self.data_dir_root}"
        )

    def _lacking(self, split: str, readers: Sequence[PairReader]) -> Iterator[Missing]:
        """Reports that there are not as many examples as were published."""
        count = len(readers)
        published = self.COUNTS.get(split, count)
        if count != published:
            remedy = "complete the files" if count < published else "remove the additional ones"
            yield Missing(
                InputError(
                    f"{self.name}: {count} examples in {split} where {published} were published; {remedy} in "
                    f"{self.root}, or set dataset.options.allow_partial=True to prepare these",
                    what=str(self.root),
                    value=count,
                    allowed=published,
                )
            )

    def _with_images(self, split: str, readers: Sequence[PairReader]) -> list[PairReader]:
        """The readers of examples whose image is there; the number of the others is reported."""
        there = [reader for reader in readers if not (isinstance(reader, Missing) and reader.of_image)]
        if left_out := len(readers) - len(there):
            print(
                f"{self.name}, {split}: {left_out} of {len(readers)} examples have no image and are left out",
                file=sys.stderr,
            )
        return there


def _paths(place: pathlib.Path, source: Source) -> list[pathlib.Path]:
    """An archive, or all files of an extracted one, including those of linked folders."""
    if place.is_file():
        return [place]
    parts = [place / part for part in source.parts if (place / part).exists()]
    return [path for part in parts for path in (walk(part) if part.is_dir() else [part])]


def pair_reader(
    name: str,
    images: Files,
    image: str,
    labels: Files | None = None,
    label: str = "",
    convert: Callable[[bytes, str], bytes] | None = None,
) -> PairReader:
    """Returns the reader of one example, or what stands for a missing file of it.

    Args:
      name: The example's name.
      images: Where the image is.
      image: Its path there.
      labels: Where the label is; None if there is none.
      label: Its path there.
      convert: Returns an 8-bit PNG of train ids, given the label file's content and name; None if it is one already.
    """
    for files, path, kind in ((images, image, "image"), (labels, label, "label")):
        if kind == "label" and files is not None and path not in files and _COPY.search(name):
            return _missing(images.where(image), "a copy of another file by its name; remove it")
        if files is not None and path not in files:
            reason = f"missing, the {kind} of {name}; get the dataset's files again"
            return _missing(files.where(path), reason, of_image=kind == "image")
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
    # A test server compares with the pixels as they are stored, so an image without a label is not turned.
    return pair if data is None else turned_upright(pair, None)


def below(files: Files, folder: str, suffix: str, *, partial: bool = False) -> dict[str, str]:
    """Returns the files in a folder that end with `suffix`, as name -> path, sorted.

    The name is the path below `folder` without the suffix.

    Raises:
      InputError: There are none, unless `partial`.
    """
    found = {
        path[len(folder) + 1 : -len(suffix)]: path
        for path in files.names
        if path.startswith(folder + "/") and path.endswith(suffix)
    }
    if not found and not partial:
        where = files.where(folder)
        raise InputError(f"{where}: no {suffix} files in it; get the dataset's files again", what=where)
    return found


def paired(
    images: tuple[Files, str],
    labels: tuple[Files, str],
    convert: Callable[[bytes, str], bytes],
    *,
    suffix: str = ".png",
    others: str = "",
    partial: bool = False,
) -> list[PairReader]:
    """Returns the readers of all `.jpg` images in a folder and the labels of the same names in another.

    Args:
      images: Where the images are: the source's files, and the folder in it.
      labels: Where the labels are.
      convert: See `pair_reader`.
      suffix: What follows the image's name in the label's.
      others: The names of other files in the folder of labels end with this, if not empty.
      partial: Whether the folders may be empty.

    Raises:
      InputError: A folder is empty, unless `partial`.
    """
    found = below(*images, ".jpg", partial=partial)
    drawn = below(*labels, suffix, partial=partial)
    drawn = {name: path for name, path in drawn.items() if not (others and name.endswith(others))}
    return [
        *orphans(found, drawn, labels[0]),
        *(
            pair_reader(name, images[0], path, labels[0], f"{labels[1]}/{name}{suffix}", convert)
            for name, path in found.items()
        ),
    ]


def orphans(images: Iterable[str], labels: Mapping[str, str], files: Files) -> list[Missing]:
    """Returns what stands for the missing image of every label in `labels` (name -> path in `files`)."""
    reason = "a label without its image; get the images again, or remove it"
    return [
        _missing(files.where(labels[name]), reason, of_image=True)
        for name in sorted(set(labels) - set(images))
    ]


def _missing(where: str, reason: str, *, of_image: bool = False) -> Missing:
    return Missing(InputError(f"{where}: {reason}", what=where), of_image)


def _remove_if_empty(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
