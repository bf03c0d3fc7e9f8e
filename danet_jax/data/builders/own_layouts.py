"""Where the pictures and labels of a user's own data set are, in the layouts that people and their tools make.

images/SPLIT/NAME.jpg, labels/SPLIT/NAME.png                    folders of splits; masks/ for labels/ as well
images/NAME.jpg, labels/NAME.png, train.txt, val.txt            split lists, beside images/ or in splits/
images/NAME.jpg, labels/NAME.png                                one folder, divided at random
JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt   PASCAL VOC's, as CVAT and labelme write it
data.yaml with images/ and masks/                               as Ultralytics reads it
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from danet_jax.data.files import is_stray, walk
from danet_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_OTHER_PICTURES = (".gif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".psd", ".svg", ".avif")
_LABEL_FOLDERS = ("labels", "masks", "annotations")
_VOC_LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
_LABELLED = ("train", "val")  # splits that begin so are of no use without labels


class Entry(NamedTuple):
    """One example: its name, unique in its split, and its files; None is what is missing.

    `expected` is where the missing file was looked for, without its suffix.
    """

    name: str
    image: pathlib.Path | None
    label: pathlib.Path | None
    expected: pathlib.Path
    unlabelled: bool = False


Splits = dict[str, list[Entry]]


def find_splits(root: pathlib.Path, masks_dir: str = "") -> Splits:
    """Return the examples of each split, sorted by name; the split "" is what nothing divides.

    Args:
      root: The data set's folder, or its `data.yaml`.
      masks_dir: The folder of the labels, where it is called otherwise.

    Raises:
      InputError: Nothing of the kind is there; the message says what was looked for and what was found.
    """
    if root.is_file() and root.suffix in (".yaml", ".yml"):
        return _of_yaml(root, masks_dir)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; set dataset.root to the one that holds images/ and labels/"
        )
    if (root / "data.yaml").is_file():
        return _of_yaml(root / "data.yaml", masks_dir)
    if (root / "JPEGImages").is_dir():
        labels = _label_folder(root, masks_dir, _VOC_LABEL_FOLDERS)
        return _listed_or_flat(root, root / "JPEGImages", labels)
    if not (root / "images").is_dir():
        raise InputError(
            f"{root / 'images'}: missing; put the images of each split into {root / 'images'}/SPLIT/{_nearest(root)}"
        )
    labels = _label_folder(root, masks_dir, _LABEL_FOLDERS)
    if _lists(root):
        return _listed_or_flat(root, root / "images", labels)
    folders = [
        path for path in sorted((root / "images").iterdir()) if path.is_dir() and not is_stray(path.name)
    ]
    if not folders and any(_is_picture(path) for path in (root / "images").iterdir()):
        return _listed_or_flat(root, root / "images", labels)
    return _of_folders(root / "images", labels, [path.name for path in folders])


def divided(splits: Splits, share: float, seed: int, root: pathlib.Path) -> Splits:
    """Return the splits with `val` taken at random from what nothing divides, or else from `train`.

    The order in which a digest of seed and name puts the examples decides: it is the same on every machine, and
    adding pictures moves few others.

    Raises:
      InputError: There is a split `val` already, or nothing to divide.
    """
    source = next((name for name in ("", "train", "default") if name in splits), None)
    if not share:
        if "" in splits:
            raise InputError(
                f"{root}: nothing says which pictures are for training and which for validation: put them into folders "
                "images/train and images/val, list their names in train.txt and val.txt, or set "
                "dataset.options.validation=0.2 for a fifth at random"
            )
        return splits
    if "val" in splits or source is None:
        raise InputError(
            f"dataset.options.validation={share}: {root} has the splits {', '.join(sorted(splits))} already; leave it 0"
        )
    entries = splits[source]
    count = round(share * len(entries))
    if not 0 < count < len(entries):
        raise InputError(f"dataset.options.validation={share}: of {len(entries)} pictures that is {count}")
    order = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}/{entry.name}".encode()).digest())
    others = {name: found for name, found in splits.items() if name != source}
    return {
        **others,
        "train": sorted(order[count:], key=lambda entry: entry.name),
        "val": sorted(order[:count], key=lambda entry: entry.name),
    }


def class_file(root: pathlib.Path) -> pathlib.Path | None:
    """Return the file that names the classes, if there is one."""
    if root.is_file():
        return root
    for name in ("classes.csv", "data.yaml", "labelmap.txt", "class_names.txt", "classes.txt"):
        if (root / name).is_file():
            return root / name
    return None


def yaml_names(path: pathlib.Path) -> list[str]:
    """Return the names of the classes in a `data.yaml`."""
    names = _yaml(path).get("names")
    if isinstance(names, Mapping):
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{path}: the ids of names are {sorted(names)[:5]}, ...; they must count from 0")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int)) for name in names):
        raise InputError(f"{path}: names must list the classes, not {names!r}")
    return [str(name) for name in names]


def _of_folders(images: pathlib.Path, labels: pathlib.Path, splits: Sequence[str]) -> Splits:
    if not splits:
        raise InputError(f"{images}: no split in it; put images into {images}/train/ and /val/")
    for path in sorted(labels.iterdir()):
        if path.is_dir() and not is_stray(path.name) and path.name not in splits:
            raise InputError(f"{path}: labels of a split without images; put them into {images / path.name}/")
    found = {}
    for split in splits:
        _check_name(images / split, split)
        found[split] = _paired(split, images / split, labels / split)
    return found


def _paired(split: str, images: pathlib.Path, labels: pathlib.Path) -> list[Entry]:
    by_name = _by_name(images, IMAGE_SUFFIXES)
    if not by_name:
        raise InputError(f"{images}: no images in it; put JPEG or PNG files there")
    label_by_name = _by_name(labels, (".png",)) if labels.is_dir() else {}
    unlabelled = not label_by_name and not split.startswith(_LABELLED)
    return [
        Entry(
            name,
            by_name.get(name),
            label_by_name.get(name),
            (labels if name in by_name else images) / name,
            unlabelled,
        )
        for name in sorted(by_name.keys() | label_by_name.keys())
    ]


def _listed_or_flat(root: pathlib.Path, images: pathlib.Path, labels: pathlib.Path) -> Splits:
    lists = _lists(root)
    if not lists:
        return {"": _paired("train", images, labels)}
    by_name = _by_name(images, IMAGE_SUFFIXES)
    label_by_name = _by_name(labels, (".png",))
    splits: Splits = {}
    for path in lists:
        _check_name(path, path.stem)
        entries: dict[str, Entry] = {}
        for number, line in _list_lines(path):
            name, label = _listed(line, root, images, by_name)
            if name in entries:
                raise InputError(f"{path}, line {number}: lists {line!r} twice; remove one")
            if name not in by_name:
                raise InputError(
                    f"{path}, line {number}: {line!r} names no picture in {images} ({_close(name, by_name)})"
                )
            entries[name] = Entry(name, by_name[name], label or label_by_name.get(name), labels / name)
        unlabelled = not any(e.label for e in entries.values()) and not path.stem.startswith(_LABELLED)
        splits[path.stem] = [entries[name]._replace(unlabelled=unlabelled) for name in sorted(entries)]
    if {"train", "val"} <= splits.keys():
        splits.pop("trainval", None)  # the two once more
    return splits


def _lists(root: pathlib.Path) -> list[pathlib.Path]:
    """The lists of splits, from the first folder that has any."""
    for folder in ("ImageSets/Segmentation", "ImageSets", "splits", "."):
        found = sorted((root / folder).glob("*.txt")) if (root / folder).is_dir() else []
        found = [path for path in found if not is_stray(path.name)]
        if folder == ".":
            found = [path for path in found if path.stem.startswith(("train", "val", "test"))]
        if found:
            return found
    return []


def _list_lines(path: pathlib.Path) -> list[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of names ({error})") from None
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"{path}: the list is empty; write the name of one picture in each line")
    return found


def _listed(
    line: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]
) -> tuple[str, pathlib.Path | None]:
    """The picture's name in a line of a list, and its label if the line gives that as well."""
    name = _name_of(line, root, images, by_name)
    if name not in by_name:
        for separator in re.finditer(r"[\s,;]+", line):
            first, label = line[: separator.start()], root / line[separator.end() :]
            if (other := _name_of(first, root, images, by_name)) in by_name and label.is_file():
                return other, label
    return name, None


def _name_of(word: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]) -> str:
    word = _composed(word.replace("\\", "/").removeprefix("./"))
    word = word.removeprefix(f"{images.relative_to(root).as_posix()}/")
    if word in by_name:
        return word
    suffix = pathlib.PurePosixPath(word).suffix
    return word[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES else word


def _of_yaml(path: pathlib.Path, masks_dir: str) -> Splits:
    values = _yaml(path)
    root = pathlib.Path(str(values.get("path") or "."))
    root = next((top for top in (path.parent / root, path.parent) if top.is_dir()), path.parent)
    masks = masks_dir or str(values.get("masks_dir") or "masks")
    splits: Splits = {}
    for split in ("train", "val", "test"):
        places = values.get(split)
        if not places:
            continue
        entries: list[Entry] = []
        for place in places if isinstance(places, list) else [places]:
            images = next(
                (top / str(place) for top in (root, path.parent) if (top / str(place)).is_dir()), None
            )
            if images is None:
                raise InputError(
                    f"{path}: {split} is {root / str(place)}, which is no folder{_nearest(root)}; correct it or path"
                )
            parts = images.relative_to(root).parts if images.is_relative_to(root) else images.parts
            if "images" not in parts:
                raise InputError(
                    f"{path}: {split} is {place!r}, which is not in a folder images/; move it there"
                )
            index = len(parts) - 1 - parts[::-1].index("images")
            top = root if images.is_relative_to(root) else pathlib.Path()
            labels = top.joinpath(*parts[:index], masks, *parts[index + 1 :])
            if not labels.is_dir() and split in _LABELLED:
                raise InputError(
                    f"{labels}: missing, the label maps of {images}; put NAME.png there or name their folder with "
                    f"dataset.options.masks_dir{_nearest(root)}"
                )
            entries += _paired(split, images, labels)
        splits[split] = entries
    if not splits:
        raise InputError(
            f"{path}: names neither train nor val; write train: images/train and val: images/val"
        )
    return splits


def _yaml(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold path, train, val and names, not {type(values).__name__}")
    return values


def _label_folder(root: pathlib.Path, masks_dir: str, names: Sequence[str]) -> pathlib.Path:
    if masks_dir:
        if not (root / masks_dir).is_dir():
            raise InputError(
                f"dataset.options.masks_dir={masks_dir}: {root / masks_dir} is no folder{_nearest(root)}"
            )
        return root / masks_dir
    found = [root / name for name in names if (root / name).is_dir()]
    with_png = [folder for folder in found if any(path.suffix.lower() == ".png" for path in walk(folder))]
    if len(with_png) > 1:
        raise InputError(
            f"{root}: both {with_png[0].name} and {with_png[1].name} hold PNG files; say which with "
            "dataset.options.masks_dir"
        )
    if not found:
        raise InputError(
            f"{root / names[0]}: missing; put the labels of each split into {root / names[0]}/SPLIT/{_nearest(root)}"
        )
    return (with_png or found)[0]


def _nearest(root: pathlib.Path) -> str:
    """What is there instead, for a message."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and ((path / "images").is_dir() or (path / "JPEGImages").is_dir()):
            return f"; found {path}: set dataset.root={path}"
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not is_stray(path.name)]
    return f"; found {', '.join(folders[:5])} in {root}" if folders else ""


def _close(name: str, by_name: Mapping[str, pathlib.Path]) -> str:
    last = name.rpartition("/")[2]
    for other in by_name:
        if other.rpartition("/")[2].casefold() == last.casefold():
            return f"the nearest is {by_name[other]}"
    return f"it has {len(by_name)} others"


def _check_name(where: pathlib.Path, split: str) -> None:
    if not re.fullmatch(r"\w+", split) or split == "all":
        raise InputError(f"{where}: a split's name is made of letters, digits and _, and is not 'all'")


def _is_picture(path: pathlib.Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_stray(path.name) and path.is_file()


def _composed(name: str) -> str:
    """The name with letters and their accents as one: macOS writes them apart."""
    return unicodedata.normalize("NFC", name)


def _by_name(folder: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
    """Return the picture files below `folder` by their path from there without suffix."""
    files: dict[str, pathlib.Path] = {}
    for path in walk(folder):
        suffix = path.suffix.lower()
        if suffix not in suffixes:
            if suffix in IMAGE_SUFFIXES + _OTHER_PICTURES:
                raise InputError(f"{path}: only {', '.join(suffixes)} can be used here; convert or remove it")
            continue
        name = _composed(path.relative_to(folder).with_suffix("").as_posix())
        if name in files:
            raise InputError(f"{path}: has the same name as {files[name]}; rename or remove one of them")
        files[name] = path
    return files
