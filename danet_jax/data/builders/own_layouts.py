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
from collections.abc import Sequence

from danet_jax.data.builders.data_yaml import splits_of_yaml
from danet_jax.data.builders.entries import (
    LABELLED,
    Entry,
    Splits,
    files_by_name,
    is_picture,
    nearest,
    paired,
    refuse_name,
)
from danet_jax.data.builders.split_lists import list_lines, nearest_name, picture_and_label, split_lists
from danet_jax.data.files import IMAGE_SUFFIXES, is_stray, walk
from danet_jax.errors import InputError

_LABEL_FOLDERS = ("labels", "masks", "annotations")
_VOC_LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")


def find_splits(root: pathlib.Path, masks_dir: str = "") -> Splits:
    """Return the examples of each split, sorted by name; the split "" is what nothing divides.

    Args:
      root: The data set's folder, or its `data.yaml`.
      masks_dir: The folder of the labels, where it is called otherwise.

    Raises:
      InputError: Nothing of the kind is there; the message says what was looked for and what was found.
    """
    if root.is_file() and root.suffix in (".yaml", ".yml"):
        return splits_of_yaml(root, masks_dir)
    if root.is_file():
        raise InputError(
            f"{root}: a file; extract it if it is an archive, and set dataset.root to the folder of the data set"
        )
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; set dataset.root to the one that holds images/ and labels/"
        )
    if (root / "data.yaml").is_file():
        return splits_of_yaml(root / "data.yaml", masks_dir)
    if (root / "JPEGImages").is_dir():
        labels = _label_folder(root, masks_dir, _VOC_LABEL_FOLDERS)
        return _listed_or_flat(root, root / "JPEGImages", labels)
    if not (root / "images").is_dir():
        raise InputError(
            f"{root / 'images'}: missing; put the images of each split into {root / 'images'}/SPLIT/{nearest(root)}"
        )
    labels = _label_folder(root, masks_dir, _LABEL_FOLDERS)
    if split_lists(root):
        return _listed_or_flat(root, root / "images", labels)
    folders = [
        path for path in sorted((root / "images").iterdir()) if path.is_dir() and not is_stray(path.name)
    ]
    if not folders and any(is_picture(path) for path in (root / "images").iterdir()):
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
    there = {path.name.casefold(): path for path in root.iterdir() if path.is_file()}
    names = ("classes.csv", "data.yaml", "labelmap.txt", "class_names.txt", "classes.txt")
    return next((there[name] for name in names if name in there), None)


def _of_folders(images: pathlib.Path, labels: pathlib.Path, splits: Sequence[str]) -> Splits:
    if not splits:
        raise InputError(f"{images}: no split in it; put images into {images}/train/ and /val/")
    for path in sorted(labels.iterdir()):
        if path.is_dir() and not is_stray(path.name) and path.name not in splits:
            raise InputError(f"{path}: labels of a split without images; put them into {images / path.name}/")
    for path in [*sorted(images.iterdir()), *sorted(labels.iterdir())]:
        if is_picture(path):
            raise InputError(
                f"{path}: in none of the splits {', '.join(splits)}; move it into one, or remove it"
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
                raise InputError(f"{path}, line {number}: lists {line!r} twice; remove one")
            if name not in by_name:
                raise InputError(
                    f"{path}, line {number}: {line!r} names no picture in {images} ({nearest_name(name, by_name)})"
                )
            entries[name] = Entry(name, by_name[name], label or label_by_name.get(name), labels / name)
        unlabelled = not any(e.label for e in entries.values()) and not path.stem.startswith(LABELLED)
        splits[path.stem] = [entries[name]._replace(unlabelled=unlabelled) for name in sorted(entries)]
    if {"train", "val"} <= splits.keys():
        splits.pop("trainval", None)  # the two once more
    return splits


def _label_folder(root: pathlib.Path, masks_dir: str, names: Sequence[str]) -> pathlib.Path:
    if masks_dir:
        if not (root / masks_dir).is_dir():
            raise InputError(
                f"dataset.options.masks_dir={masks_dir}: {root / masks_dir} is no folder{nearest(root)}"
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
            f"{root / names[0]}: missing; put the labels of each split into {root / names[0]}/SPLIT/{nearest(root)}"
        )
    return (with_png or found)[0]
