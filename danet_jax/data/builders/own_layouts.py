"""Finds the images and labels of a user's own data set, in the layouts that people and their tools produce.

images/SPLIT/NAME.jpg, labels/SPLIT/NAME.png                    folders of splits; masks/ for labels/ as well
images/NAME.jpg, labels/NAME.png, train.txt, val.txt            split lists, beside images/ or in splits/
images/NAME.jpg, labels/NAME.png                                one folder, divided at random
JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt   PASCAL VOC's, as CVAT and labelme write it
data.yaml with images/ and masks/                               as Ultralytics reads it
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from danet_jax.data.builders.entries import (
    LABELLED,
    Entry,
    Splits,
    files_by_name,
    is_picture,
    list_lines,
    nearest,
    nearest_name,
    paired,
    picture_and_label,
    refuse_name,
    split_lists,
)
from danet_jax.data.files import IMAGE_SUFFIXES, is_stray, read_text, walk
from danet_jax.errors import InputError, one_line

_LABEL_FOLDERS = ("labels", "masks", "annotations")
_VOC_LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
_MASKS_DIR, _VALIDATION = "dataset.options.masks_dir", "dataset.options.validation"


def find_splits(root: pathlib.Path, masks_dir: str = "") -> Splits:
    """Returns the examples of each split, sorted by name; the split "" holds what nothing divides.

    Args:
      root: the folder of the data set, or its `data.yaml`.
      masks_dir: the folder of the labels, if its name is none of the usual ones.

    Raises:
      InputError: there is no such layout; the message says what was looked for and what was found.
    """
    if root.is_file() and root.suffix in (".yaml", ".yml"):
        return _splits_of_yaml(root, masks_dir)
    if root.is_file():
        raise InputError(
            f"{root}: a file; extract it if it is an archive, and set dataset.root to the folder of the data set",
            what=str(root),
        )
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; set dataset.root to the one that holds images/ and labels/",
            what=str(root),
        )
    if (root / "data.yaml").is_file():
        return _splits_of_yaml(root / "data.yaml", masks_dir)
    if (root / "JPEGImages").is_dir():
        labels = _label_folder(root, masks_dir, _VOC_LABEL_FOLDERS)
        return _listed_or_flat(root, root / "JPEGImages", labels)
    images = root / "images"
    if not images.is_dir():
        raise InputError(
            f"{images}: missing; put the images of each split into {images}/SPLIT/{nearest(root)}",
            what=str(images),
        )
    labels = _label_folder(root, masks_dir, _LABEL_FOLDERS)
    if split_lists(root):
        return _listed_or_flat(root, images, labels)
    folders = [path for path in sorted(images.iterdir()) if path.is_dir() and not is_stray(path.name)]
    if not folders and any(is_picture(path) for path in images.iterdir()):
        return _listed_or_flat(root, images, labels)
    return _of_folders(images, labels, [path.name for path in folders])


def divided(splits: Splits, share: float, seed: int, root: pathlib.Path) -> Splits:
    """Returns the splits with `val` drawn at random from the undivided examples, or else from `train`.

    The order of a digest of seed and name decides: it is the same on every machine, and adding images moves few others.

    Raises:
      InputError: there is a split `val` already, or nothing to divide.
    """
    source = next((name for name in ("", "train", "default") if name in splits), None)
    if not share:
        if "" in splits:
            raise InputError(
                f"{root}: nothing says which images are for training and which for validation: put them into folders "
                "images/train and images/val, list their names in train.txt and val.txt, or set "
                f"{_VALIDATION}=0.2 for a fifth at random",
                what=str(root),
            )
        return splits
    if "val" in splits or source is None:
        raise InputError(
            f"{_VALIDATION}={share}: {root} has the splits {', '.join(sorted(splits))} already; leave it 0",
            what=_VALIDATION,
            value=share,
        )
    entries = splits[source]
    count = round(share * len(entries))
    if not 0 < count < len(entries):
        raise InputError(
            f"{_VALIDATION}={share}: of {len(entries)} images that is {count}", what=_VALIDATION, value=share
        )
    order = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}/{entry.name}".encode()).digest())
    others = {name: found for name, found in splits.items() if name != source}
    return {
        **others,
        "train": sorted(order[count:], key=lambda entry: entry.name),
        "val": sorted(order[:count], key=lambda entry: entry.name),
    }


def class_file(root: pathlib.Path) -> pathlib.Path | None:
    """Returns the file that names the classes, if there is one."""
    if root.is_file():
        return root
    there = {path.name.casefold(): path for path in root.iterdir() if path.is_file()}
    names = ("classes.csv", "data.yaml", "labelmap.txt", "class_names.txt", "classes.txt")
    return next((there[name] for name in names if name in there), None)


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a `data.yaml`.

    Raises:
      InputError: it is not a mapping in YAML, or has a key twice.
    """
    try:
        text = read_text(path, "YAML")
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as YAML ({one_line(error)})", what=str(path)) from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: must hold path, train, val and names, not {type(values).__name__}", what=str(path)
        )
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{path}: has {key} twice; remove one", what=str(path), value=key)
    return values


def _splits_of_yaml(path: pathlib.Path, masks_dir: str) -> Splits:
    """Returns the examples of each split that a `data.yaml` names.

    The labels of `images/...` are in the folder `masks_dir`, or in that which the file names, or in `masks`.
    """
    values = read_yaml(path)
    root = pathlib.Path(str(values.get("path") or "."))
    root = next((top for top in (path.parent / root, path.parent) if top.is_dir()), path.parent)
    masks = masks_dir or str(values.get("masks_dir") or "masks")
    splits: Splits = {}
    for split in ("train", "val", "test"):
        places = values.get(split)
        if not places:
            continue
        places = places if isinstance(places, list) else [places]
        for place in places:
            if not isinstance(place, str) or places.count(place) > 1:
                reason = "twice" if isinstance(place, str) else "which is not the name of a folder"
                raise InputError(
                    f"{path}: {split} names {place!r}, {reason}; write images/{split}",
                    what=str(path),
                    value=place,
                )
        splits[split] = [
            entry
            for place in places
            for entry in _in_yaml_folder(path, root, split, place, masks, several=len(places) > 1)
        ]
    if not splits:
        raise InputError(
            f"{path}: names neither train nor val; write train: images/train and val: images/val",
            what=str(path),
        )
    return splits


def _in_yaml_folder(
    path: pathlib.Path, root: pathlib.Path, split: str, place: str, masks: str, *, several: bool
) -> list[Entry]:
    """Returns the examples of one folder of images; of several, the folder is part of an example's name."""
    images = next((top / place for top in (root, path.parent) if (top / place).is_dir()), None)
    if images is None:
        raise InputError(
            f"{path}: {split} is {root / place}, which is not a folder{nearest(root)}; correct it or path",
            what=str(path),
            value=place,
        )
    parts = images.relative_to(root).parts if images.is_relative_to(root) else images.parts
    if "images" not in parts:
        raise InputError(
            f"{path}: {split} is {place!r}, which is not in a folder images/; move it there",
            what=str(path),
            value=place,
        )
    index = len(parts) - 1 - parts[::-1].index("images")
    top = root if images.is_relative_to(root) else pathlib.Path()
    labels = top.joinpath(*parts[:index], masks, *parts[index + 1 :])
    if not labels.is_dir() and split in LABELLED:
        raise InputError(
            f"{labels}: missing, the label maps of {images}; put NAME.png there or name their folder with "
            f"{_MASKS_DIR}{nearest(root)}",
            what=str(labels),
        )
    found = paired(split, images, labels)
    inside = "/".join(parts[index + 1 :])
    return (
        [entry._replace(name=f"{inside}/{entry.name}".lstrip("/")) for entry in found] if several else found
    )


def _of_folders(images: pathlib.Path, labels: pathlib.Path, splits: Sequence[str]) -> Splits:
    if not splits:
        raise InputError(
            f"{images}: no split in it; put images into {images}/train/ and /val/", what=str(images)
        )
    for path in sorted(labels.iterdir()):
        if path.is_dir() and not is_stray(path.name) and path.name not in splits:
            raise InputError(
                f"{path}: labels of a split without images; put them into {images / path.name}/",
                what=str(path),
            )
    for path in [*sorted(images.iterdir()), *sorted(labels.iterdir())]:
        if is_picture(path):
            raise InputError(
                f"{path}: in none of the splits {', '.join(splits)}; move it into one, or remove it",
                what=str(path),
            )
    found = {}
    for split in splits:
        refuse_name(images / split, split)
        found[split] = paired(split, images / split, labels / split)
    return found


def _listed_or_flat(root: pathlib.Path, images: pathlib.Path, labels: pathlib.Path) -> Splits:
    lists = split_lists(root)
    if not lists:
        return {"": paired("train", images, labels)}
    by_name = files_by_name(images, IMAGE_SUFFIXES)
    label_by_name = files_by_name(labels, (".png",))
    splits: Splits = {}
    for path in lists:
        refuse_name(path, path.stem)
        entries: dict[str, Entry] = {}
        for number, line in list_lines(path):
            name, label = picture_and_label(line, root, images, by_name)
            if name in entries:
                raise InputError(
                    f"{path}, line {number}: lists {line!r} twice; remove one", what=str(path), value=line
                )
            if name not in by_name:
                raise InputError(
                    f"{path}, line {number}: {line!r} names no image in {images} ({nearest_name(name, by_name)})",
                    what=str(path),
                    value=line,
                )
            entries[name] = Entry(name, by_name[name], label or label_by_name.get(name), labels / name)
        unlabelled = not any(e.label for e in entries.values()) and not path.stem.startswith(LABELLED)
        splits[path.stem] = [entries[name]._replace(unlabelled=unlabelled) for name in sorted(entries)]
    if {"train", "val"} <= splits.keys():
        splits.pop("trainval", None)  # the union of the two
    return splits


def _label_folder(root: pathlib.Path, masks_dir: str, names: Sequence[str]) -> pathlib.Path:
    if masks_dir:
        if not (root / masks_dir).is_dir():
            raise InputError(
                f"{_MASKS_DIR}={masks_dir}: {root / masks_dir} is not a folder{nearest(root)}",
                what=_MASKS_DIR,
                value=masks_dir,
            )
        return root / masks_dir
    found = [root / name for name in names if (root / name).is_dir()]
    with_png = [folder for folder in found if any(path.suffix.lower() == ".png" for path in walk(folder))]
    if len(with_png) > 1:
        raise InputError(
            f"{root}: both {with_png[0].name} and {with_png[1].name} hold PNG files; choose one with {_MASKS_DIR}",
            what=str(root),
        )
    if not found:
        raise InputError(
            f"{root / names[0]}: missing; put the labels of each split into {root / names[0]}/SPLIT/{nearest(root)}",
            what=str(root / names[0]),
        )
    return (with_png or found)[0]
