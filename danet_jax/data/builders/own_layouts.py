"""Finds the images and labels of a user's own data set, in the layouts that people and their tools produce.

images/SPLIT/NAME.jpg, labels/SPLIT/NAME.png                    folders of splits; labels/ may be called masks/
SPLIT/images/NAME.jpg, SPLIT/labels/NAME.png                    folders inside the splits, as Roboflow writes them
images/NAME.jpg, labels/NAME.png, train.txt, val.txt            split lists, next to images/ or in splits/
images/NAME.jpg, labels/NAME.png                                one folder, split at random
SPLIT/NAME.jpg, SPLIT/NAME_mask.png                             labels next to their images, with or without SPLIT
JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt   PASCAL VOC, as CVAT and labelme write it
data.yaml with images/ and masks/ or labels/                    as Ultralytics reads it, also with lists of images
annotations.xml, or JSON files of COCO                          images anywhere below the root

In all layouts but the last, YOLO's NAME.txt or labelme's NAME.json may replace NAME.png.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Sequence

from danet_jax.data.builders.class_list import read_yaml
from danet_jax.data.builders.entries import (
    LABELLED,
    Entry,
    Splits,
    check_split_name,
    compose,
    is_image,
    pair_folders,
    read_list,
    split_in,
    split_lists,
)
from danet_jax.data.builders.shapes import read_coco, read_cvat
from danet_jax.data.files import USUAL_SPLITS, is_stray, option_error, split_name, walk
from danet_jax.errors import InputError

_LABEL_FOLDERS = {
    "JPEGImages": ("SegmentationClass", "SegmentationClassPNG"),
    "images": ("labels", "masks", "annotations"),
}
_CLASS_FILES = (
    *("classes.csv", "data.yaml", "labelmap.txt", "class_names.txt", "classes.txt"),
    *("_classes.csv", "labels.txt"),
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")


def find_splits(root: pathlib.Path, masks_dir: str = "") -> tuple[Splits, list[str]]:
    """Returns the examples of each split, sorted by name, and the class names in the annotations of COCO or CVAT.

    The split "" contains examples that nothing assigns to a split.

    Args:
      root: The folder of the data set, or its `data.yaml`.
      masks_dir: The folder of the labels, if it does not have one of the usual names.

    Raises:
      InputError: No known layout was found; the message says what was expected and what was found.
    """
    if root.is_file() and root.suffix not in (".yaml", ".yml"):
        problem = "is a file; extract it if it is an archive, and set dataset.root to the data set's folder"
        raise InputError.for_file(root, problem)
    if not root.exists():
        raise InputError.for_file(
            root, "does not exist; set dataset.root to the folder of images/ and labels/"
        )
    if (data_yaml := root if root.is_file() else root / "data.yaml").is_file():
        return _splits_of_yaml(data_yaml, masks_dir), []
    images = root / ("JPEGImages" if (root / "JPEGImages").is_dir() else "images")
    labels = _label_folder(root, masks_dir, images)
    has_label_maps = labels is not None and any(map(is_image, walk(labels)))
    if not has_label_maps and (annotated := _splits_of_annotations(root)):
        return annotated
    if not images.is_dir():
        return _splits_of_split_folders(root, masks_dir), []
    if labels is None:
        labels = root / _LABEL_FOLDERS[images.name][0]
        raise InputError.for_file(
            labels, f"missing; put the labels of each split into {labels}/SPLIT/{_nearest(root)}"
        )
    if lists := split_lists(root):
        by_split = _by_split(lists)
        splits = {split: read_list(split, path, root, images, labels) for split, path in by_split.items()}
        if {"train", "val"} <= splits.keys():
            splits.pop("trainval", None)  # It is the union of the two.
        return splits, []
    folders = _folders(images) if images.name == "images" else []
    if folders or (images.name == "images" and not any(map(is_image, images.iterdir()))):
        return _splits_of_folders(images, labels, folders), []
    return {"": pair_folders("train", images, labels)}, []


def divide_splits(splits: Splits, share: float, seed: int, root: pathlib.Path) -> Splits:
    """Returns the splits with `val` drawn at random from the examples without a split, or else from `train`.

    Examples are ordered by a digest of seed and name, so the result is the same on every machine, and adding images
    moves few others to another split.

    Args:
      splits: The examples of each split, as `find_splits` returns them.
      share: The fraction of the examples that becomes `val`; 0 leaves the splits unchanged.
      seed: The seed of the random order.
      root: The folder of the data set, for error messages.
    """
    if not share:
        if "" in splits:
            raise InputError.for_file(
                root,
                "nothing says which images are for training and which for validation: put them into folders "
                "images/train and images/val, list their names in train.txt and val.txt, or set "
                "dataset.options.validation=0.2 for a fifth at random",
            )
        return splits
    source = next((name for name in ("", "train", "default") if name in splits), None)
    if "val" in splits or source is None:
        existing = ", ".join(sorted(splits))
        raise option_error(
            "options.validation", share, f"{root} already has the splits {existing}; leave it 0"
        )
    entries = splits.pop(source)
    count = round(share * len(entries))
    if not 0 < count < len(entries):
        raise option_error(
            "options.validation",
            share,
            f"that is {count} of {len(entries)} images; both splits need at least one",
        )
    order = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}/{entry.name}".encode()).digest())
    return {**splits, "train": sorted(order[count:]), "val": sorted(order[:count])}


def find_class_file(root: pathlib.Path) -> pathlib.Path | None:
    """Returns the file that names the classes, or None."""
    if root.is_file():
        return root
    files = {path.name.casefold(): path for path in root.iterdir()}
    paths = [files.get(name, root / name) for name in _CLASS_FILES]
    paths += [root / "train/_classes.csv", root / "training/_classes.csv", root / "labels/classes.txt"]
    return next((path for path in paths if path.is_file()), None)


def _splits_of_yaml(path: pathlib.Path, masks_dir: str) -> Splits:
    """Returns the examples of each split in a `data.yaml`.

    The labels of `images/...` are in the folder `masks_dir`, in the one that the file names, in `masks` or in `labels`.
    """
    values = read_yaml(path)
    root = path.parent / str(values.get("path") or ".")
    root = root if root.is_dir() else path.parent
    masks = masks_dir or str(values.get("masks_dir") or "")
    values = {**{split_name(str(key)): value for key, value in values.items()}, **values}
    splits: Splits = {}
    for split in USUAL_SPLITS:
        sources = values.get(split) or []
        sources = sources if isinstance(sources, list) else [sources]
        for source in sources:
            if not isinstance(source, str) or sources.count(source) > 1:
                problem = (
                    "twice" if isinstance(source, str) else "which is not the name of a folder or a list"
                )
                raise InputError.for_file(
                    path, f"{split} names {source!r}, {problem}; write images/{split}", value=source
                )
            entries = _entries_of_yaml(path, root, split, source, masks, several=len(sources) > 1)
            existing = {entry.image for entry in splits.setdefault(split, [])}
            if repeated := existing.intersection(entry.image for entry in entries):
                raise InputError.for_file(
                    path, f"{split} contains {min(map(str, repeated))} twice; remove one", value=source
                )
            splits[split].extend(entries)
    if not splits:
        raise InputError.for_file(
            path, "names neither train nor val; write train: images/train and val: images/val"
        )
    return splits


def _entries_of_yaml(
    path: pathlib.Path, root: pathlib.Path, split: str, source: str, masks: str, *, several: bool
) -> list[Entry]:
    """Returns the examples in a folder or, as CVAT writes it, in a list of images.

    If there are several folders, their names are part of those of their examples. The examples of a list are always
    named by their path below images/.
    """
    # Roboflow's data.yaml names ../train/images for the folder train/images, and Ultralytics accepts it.
    pairs = itertools.product((source, source.removeprefix("../")), (root, path.parent))
    found = next((top / name for name, top in pairs if (top / name).exists()), None)
    if found is None:
        problem = f"{split} is {root / source}, which does not exist{_nearest(root)}; correct {split} or path"
        raise InputError.for_file(path, problem, value=source)
    images = root / "images" if found.is_file() else found
    top = root if images.is_relative_to(root) else pathlib.Path(images.anchor)
    parts = images.relative_to(top).parts
    if "images" not in parts:
        problem = f"{split} is {source!r}, which is not in a folder images/; move it there"
        raise InputError.for_file(path, problem, value=source)
    index = len(parts) - 1 - parts[::-1].index("images")
    inside = "/".join(parts[index + 1 :])
    names = [masks] if masks else ["masks", "labels"]
    folders = [top.joinpath(*parts[:index], name, inside) for name in names]
    labels = next((folder for folder in folders if folder.is_dir()), folders[0])
    if not labels.is_dir() and split in LABELLED:
        remedy = "put NAME.png there or name their folder with dataset.options.masks_dir"
        raise InputError.for_file(labels, f"missing, the labels of {images}; {remedy}{_nearest(root)}")
    if found.is_file():
        return read_list(split, found, root, images, labels)
    prefix = (inside or "/".join(parts[:index])) + "/" if several and len(parts) > 1 else ""
    return [entry._replace(name=prefix + entry.name) for entry in pair_folders(split, images, labels)]


def _splits_of_folders(images: pathlib.Path, labels: pathlib.Path, folders: Sequence[pathlib.Path]) -> Splits:
    """Returns the splits of images/SPLIT/ and labels/SPLIT/."""
    if not folders:
        raise InputError.for_file(images, f"contains no split; put images into {images}/train/ and /val/")
    for path in _folders(labels):
        if images / path.name not in folders:
            problem = f"labels of a split without images; put them into {images / path.name}/"
            raise InputError.for_file(path, problem)
    for path in [*sorted(images.iterdir()), *sorted(labels.iterdir())]:
        if is_image(path):
            names = ", ".join(folder.name for folder in folders)
            raise InputError.for_file(path, f"in none of the splits {names}; move it into one, or remove it")
    by_split = _by_split(folders)
    return {split: pair_folders(split, path, labels / path.name) for split, path in by_split.items()}


def _splits_of_split_folders(root: pathlib.Path, masks_dir: str) -> Splits:
    """Returns the splits of SPLIT/images/ and SPLIT/labels/, or of labels next to their images."""
    splits = {}
    folders = [path for path in _folders(root) if split_name(path.name) in USUAL_SPLITS]
    for split, folder in _by_split(folders).items():
        images = folder / "images"
        labels = _label_folder(folder, masks_dir, images) or folder / "labels"
        pair = (images, labels) if images.is_dir() else (folder, folder)
        splits[split] = pair_folders(split, *pair)
    if not splits and _has_labels_beside(root):
        splits[""] = pair_folders("train", root, root)
    if not splits:
        images = root / "images"
        raise InputError.for_file(
            images, f"missing; put the images of each split into {images}/SPLIT/{_nearest(root)}"
        )
    return splits


def _splits_of_annotations(root: pathlib.Path) -> tuple[Splits, list[str]] | None:
    """Returns the splits and classes of CVAT's `annotations.xml` or of JSON files of COCO; None if there are none."""
    images: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for path in filter(is_image, walk(root)):
        images[compose(path.name)].append(path)
    if (cvat := root / "annotations.xml").is_file():
        annotated = [(cvat, *read_cvat(cvat))]
    else:
        folders = [path for path in _folders(root) if path.name == "annotations" or split_in(path.name)]
        files = [path for folder in (root, *folders) for path in sorted(folder.glob("*.json"))]
        stems = {pathlib.Path(name).stem for name in images}
        files = [path for path in files if path.stem not in stems]  # The others are labelme's.
        files = [path for path in files if path.name.startswith("instances")] or files
        annotated = [(path, *found) for path in files if (found := read_coco(path))]
    splits: Splits = collections.defaultdict(list)
    sources: dict[str, pathlib.Path] = {}
    for file, _, drawings in annotated:
        split_of_file = split_in(file.stem) or ("" if file.parent == root else split_in(file.parent.name))
        for name, drawing in sorted(drawings.items()):
            split = split_name(drawing.split) or split_of_file
            if sources.setdefault(split, file) != file:
                problem = f"annotates {split or 'images'}, as does {sources[split]}; keep one of them"
                raise InputError.for_file(file, problem)
            listed = pathlib.PurePosixPath(compose(name.replace("\\", "/")).lstrip("/"))
            image = _annotated_image(listed, images.get(listed.name, ()), split, file, root)
            stem = listed.with_suffix("").as_posix()
            read = functools.partial(drawings.__getitem__, name)
            splits[split].append(Entry(stem, image, file, root / "images" / stem, drawing=read))
    classes = dict.fromkeys(name for _, names, _ in annotated for name in names)
    return (dict(splits), list(classes)) if splits else None


def _annotated_image(
    listed: pathlib.PurePosixPath,
    images: Iterable[pathlib.Path],
    split: str,
    file: pathlib.Path,
    root: pathlib.Path,
) -> pathlib.Path | None:
    """Returns the one of several images of the same file name whose folders best match the path in the annotations."""

    def likeness(path: pathlib.Path) -> tuple[int, bool]:
        same = [n for n in range(1, len(listed.parts) + 1) if listed.parts[-n:] == path.parts[-n:]]
        return len(same), split in map(split_in, path.relative_to(root).parts[:-1])

    ranked = sorted(images, key=likeness, reverse=True)
    if len(ranked) > 1 and likeness(ranked[0]) == likeness(ranked[1]):
        raise InputError.for_file(
            file, f"{str(listed)!r} could be {ranked[0]} or {ranked[1]}; remove one of them"
        )
    return ranked[0] if ranked else None


def _by_split(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns folders or lists by the split in their names."""
    found: dict[str, pathlib.Path] = {}
    for path in paths:
        split = split_name(path.name.removesuffix(".txt"))
        check_split_name(path, split)
        if found.setdefault(split, path) != path:
            raise InputError.for_file(
                path, f"the split {split} is also in {found[split]}; merge or rename them"
            )
    return found


def _label_folder(root: pathlib.Path, masks_dir: str, images: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder with the labels of `images`, which may be `images` itself, or None."""
    if masks_dir:
        if not (root / masks_dir).is_dir():
            problem = f"{root / masks_dir} is not a folder{_nearest(root)}"
            raise option_error("options.masks_dir", masks_dir, problem)
        return root / masks_dir
    found = [root / name for name in _LABEL_FOLDERS[images.name] if (root / name).is_dir()]
    with_png = [folder for folder in found if any(path.suffix.lower() == ".png" for path in walk(folder))]
    if len(with_png) > 1:
        names = f"{with_png[0].name} and {with_png[1].name}"
        raise InputError.for_file(
            root, f"both {names} contain PNG files; choose one with dataset.options.masks_dir"
        )
    beside = [images] if not found and images.is_dir() and _has_labels_beside(images) else []
    return next(iter(with_png or found or beside), None)


def _has_labels_beside(folder: pathlib.Path) -> bool:
    """Returns whether any image below `folder` has its label in the same folder."""
    ends = ("_mask.png", ".json", ".txt")
    images = filter(is_image, walk(folder))
    return any(path.with_name(path.stem + end).is_file() for path in images for end in ends)


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_stray(path.name)]


def _nearest(root: pathlib.Path) -> str:
    """Describes the folders that exist instead, for a message."""
    for path in _folders(root):
        if (path / "images").is_dir() or (path / "JPEGImages").is_dir():
            return f"; found {path}: set dataset.root={path}"
    found = [path.name for path in _folders(root)]
    found += [f"{path.name} (extract it)" for path in sorted(root.iterdir()) if path.suffix in _ARCHIVES]
    return f"; found {', '.join(found[:5])} in {root}" if found else ""
