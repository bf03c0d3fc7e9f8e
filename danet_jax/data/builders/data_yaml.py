"""`data.yaml` as Ultralytics reads it: where the pictures of each split are, and the names of the classes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from danet_jax.data.builders.entries import LABELLED, Entry, Splits, nearest, paired
from danet_jax.data.files import read_text
from danet_jax.errors import InputError, one_line


def splits_of_yaml(path: pathlib.Path, masks_dir: str) -> Splits:
    """Return the examples of each split that a `data.yaml` names.

    Args:
      path: The file.
      masks_dir: The folder that the labels are in where pictures are in `images`; empty is the file's own, or masks.

    Raises:
      InputError: The file is none, or what it names is not there.
    """
    values = _values(path)
    root = pathlib.Path(str(values.get("path") or "."))
    root = next((top for top in (path.parent / root, path.parent) if top.is_dir()), path.parent)
    masks = masks_dir or str(values.get("masks_dir") or "masks")
    splits: Splits = {}
    for split in ("train", "val", "test"):
        places = values.get(split)
        if not places:
            continue
        entries: list[Entry] = []
        places = places if isinstance(places, list) else [places]
        for place in places:
            if not isinstance(place, str) or places.count(place) > 1:
                what = "twice" if isinstance(place, str) else "which is no folder's name"
                raise InputError(f"{path}: {split} names {place!r}, {what}; write images/{split}")
            images = next(
                (top / str(place) for top in (root, path.parent) if (top / str(place)).is_dir()), None
            )
            if images is None:
                raise InputError(
                    f"{path}: {split} is {root / str(place)}, which is no folder{nearest(root)}; correct it or path"
                )
            parts = images.relative_to(root).parts if images.is_relative_to(root) else images.parts
            if "images" not in parts:
                raise InputError(
                    f"{path}: {split} is {place!r}, which is not in a folder images/; move it there"
                )
            index = len(parts) - 1 - parts[::-1].index("images")
            top = root if images.is_relative_to(root) else pathlib.Path()
            labels = top.joinpath(*parts[:index], masks, *parts[index + 1 :])
            if not labels.is_dir() and split in LABELLED:
                raise InputError(
                    f"{labels}: missing, the label maps of {images}; put NAME.png there or name their folder with "
                    f"dataset.options.masks_dir{nearest(root)}"
                )
            found = paired(split, images, labels)
            if len(places) > 1:  # their pictures may have the same names
                inside = "/".join(parts[index + 1 :])
                found = [entry._replace(name=f"{inside}/{entry.name}".lstrip("/")) for entry in found]
            entries += found
        splits[split] = entries
    if not splits:
        raise InputError(
            f"{path}: names neither train nor val; write train: images/train and val: images/val"
        )
    return splits


def yaml_names(path: pathlib.Path) -> list[str]:
    """Return the names of the classes in a `data.yaml`."""
    values = _values(path)
    names, count = values.get("names"), values.get("nc")
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise InputError(f"{path}: the ids of names are {list(names)[:5]}, ...; they must count from 0")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int)) for name in names):
        raise InputError(f"{path}: names must list the classes, not {names!r}")
    for name in names:
        if isinstance(name, bool):
            raise InputError(
                f"{path}: names holds {name}, as YAML reads yes, no, on and off; put it in quotes"
            )
    if count not in (None, len(names)):
        raise InputError(f"{path}: nc is {count}, but there are {len(names)} names; correct one of them")
    return [str(name) for name in names]


def _values(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = read_text(path, "YAML")
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as YAML ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold path, train, val and names, not {type(values).__name__}")
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{path}: has {key} twice; remove one")
    return values
