"""Small data sets in the exact layout and formats of their publishers, as archives or as extracted folders."""

from __future__ import annotations

import io
import pathlib
import tarfile
import zipfile

import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image

from danet_jax.data.dataset import Dataset, open_dataset
from danet_jax.data.decode import decode_label
from tests.reference.images import encode

Tree = dict[str, dict[str, bytes]]
"""Archive -> path in it -> content."""

Contents = dict[tuple[str, str], tuple[bytes, list[list[int]] | None]]
"""Split and name of an example -> its image as stored, and its label; in the stored order."""

STRAY = {".DS_Store": b"\x00\x01", "Thumbs.db": b"\x00"}


def photo(rng: np.random.Generator, height: int, width: int, kind: str = "jpeg", mode: str = "RGB") -> bytes:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return encode(rng.integers(0, 256, shape, dtype=np.uint8), kind)


def palette_png(label: np.ndarray) -> bytes:
    """Encodes a label map with a grey palette that contains every level twice."""
    image = Image.frombytes("P", label.shape[::-1], label.tobytes())
    image.putpalette([value // 2 for value in range(256) for _ in range(3)])
    return encode(image)


def ids_of(content: bytes) -> np.ndarray:
    """Returns the values of a label PNG, or the indices of its palette."""
    return np.array(Image.open(io.BytesIO(content)))


def voc_palette() -> list[tuple[int, int, int]]:
    """Returns PASCAL VOC's palette, from the development kit's `VOClabelcolormap`."""
    palette = []
    for label in range(256):
        colour, bits = [0, 0, 0], label
        for position in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (bits >> channel & 1) << position
            bits >>= 3
        palette.append((colour[0], colour[1], colour[2]))
    return palette


def mat(**variables: object) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=True)
    return file.getvalue()


def write(tree: Tree, root: pathlib.Path, form: str) -> pathlib.Path:
    """Writes each archive (`form` "archive") or extracts it all into `root` ("folder"), with stray files."""
    root.mkdir(parents=True, exist_ok=True)
    for archive, files in tree.items():
        files = {**files, **_strays(files)}
        if form == "folder":
            for path, content in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
        elif archive.endswith(".zip"):
            _write_zip(root / archive, files)
        else:
            _write_tar(root / archive, files)
    return root


def _strays(files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the files that macOS and Windows leave beside the publisher's: for every tenth file and its folder."""
    strays: dict[str, bytes] = {}
    for path in list(files)[::10]:
        folder, _, name = path.rpartition("/")
        for stray, content in {**STRAY, f"._{name}": b"not an image"}.items():
            strays[f"{folder}/{stray}" if folder else stray] = content
        strays[f"__MACOSX/{folder}/._{name}"] = b"not an image"
    return strays


def _write_zip(path: pathlib.Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            archive.mkdir(folder)
        for name, content in files.items():
            archive.writestr(name, content)


def _write_tar(path: pathlib.Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def prepare(name: str, root: pathlib.Path, tmp_path: pathlib.Path, **options: object) -> Dataset:
    """Opens the data set in `root`, which need not be complete."""
    options = {"allow_partial": True, **options}
    return open_dataset(name, root=root, data_dir=tmp_path / "data", options=options)


def read(name: str, root: pathlib.Path, tmp_path: pathlib.Path, **options: object) -> Contents:
    """Returns the examples of the data set in `root`, which need not be complete."""
    return contents(prepare(name, root, tmp_path, **options))


def contents(dataset: Dataset) -> Contents:
    found: Contents = {}
    for split in dataset.splits:
        for example in dataset.source(split):
            label = None if example["label"] is None else decode_label(example["label"], "").tolist()
            assert (split, example["name"]) not in found
            found[split, example["name"]] = example["image"], label
    return found


def cityscapes(rng: np.random.Generator, coarse: bool = False) -> tuple[Tree, dict[str, np.ndarray]]:
    """Returns the archives and the label ids by name, with two images of each city."""
    images, fine, extra, rough = (
        {"README": b"read me", "license.txt": b"see the web page"} for _ in range(4)
    )
    truth: dict[str, np.ndarray] = {}
    splits = {"train": ("aachen", "weimar", "zürich (alt)"), "val": ("frankfurt", "münster")}
    splits |= {"test": ("berlin",), **({"train_extra": ("bad-honnef",)} if coarse else {})}
    for split, city in [(split, city) for split, cities in splits.items() for city in cities]:
        for frame in range(2):
            name = f"{city}_{int(rng.integers(10**6)):06d}_{frame:06d}"
            path = f"{split}/{city}/{name}"
            target = extra if split == "train_extra" else images
            target[f"leftImg8bit/{path}_leftImg8bit.png"] = photo(rng, 12, 24, "png")
            truth[name] = ids = rng.integers(0, 34, (12, 24), dtype=np.uint8)
            folder, kind = (rough, "gtCoarse") if split == "train_extra" else (fine, "gtFine")
            folder[f"{kind}/{path}_{kind}_labelIds.png"] = encode(ids if split != "test" else 0 * ids)
            folder[f"{kind}/{path}_{kind}_instanceIds.png"] = encode(ids.astype(np.uint16) * 1000)
            folder[f"{kind}/{path}_{kind}_color.png"] = photo(rng, 12, 24, "png")
            folder[f"{kind}/{path}_{kind}_polygons.json"] = b"{}"
    tree = {"leftImg8bit_trainvaltest.zip": images, "gtFine_trainvaltest.zip": fine}
    if coarse:
        tree |= {"leftImg8bit_trainextra.zip": extra, "gtCoarse.zip": rough}
    return tree, truth


def pascal_voc_aug(rng: np.random.Generator) -> tuple[Tree, dict[str, list[str]], dict[str, np.ndarray]]:
    """Returns the archives, the names in each list, and the label maps by name."""
    names = [f"20{int(year):02d}_{index:06d}" for index, year in enumerate(rng.integers(7, 12, 12))]
    lists = {
        "voc_train": names[0:3],
        "voc_val": names[3:6],
        # SBD's lists cut across VOC's: val images of VOC are in both of them.
        "sbd_train": [names[0], names[3], *names[6:9]],
        "sbd_val": [names[4], names[9], names[1]],
        "test": names[10:12],
    }
    voc: dict[str, bytes] = {}
    sbd: dict[str, bytes] = {"benchmark_RELEASE/BSD_LICENSE.txt": b"BSD"}
    test: dict[str, bytes] = {}
    truth: dict[str, np.ndarray] = {}
    top = "VOCdevkit/VOC2012"
    for name in names:
        height, width = (10, 14) if int(name[-1]) % 2 else (14, 10)
        images = test if name in lists["test"] else voc
        images[f"{top}/JPEGImages/{name}.jpg"] = photo(rng, height, width)
        images[f"{top}/Annotations/{name}.xml"] = b"<annotation/>"
        label = rng.integers(0, 21, (height, width), dtype=np.uint8)
        if name in lists["voc_train"] + lists["voc_val"]:
            label[:2] = 255
            truth[name] = label
            voc[f"{top}/SegmentationClass/{name}.png"] = palette_png(label)
            voc[f"{top}/SegmentationObject/{name}.png"] = palette_png(label)
        if name in lists["sbd_train"] + lists["sbd_val"]:
            ids = np.minimum(label, 20)
            truth.setdefault(name, ids)
            struct = {
                "Boundaries": np.array([[None]] * 20, object),
                "Segmentation": ids,
                "CategoriesPresent": np.unique(ids)[None],
            }
            struct["Boundaries"][:] = [[scipy.sparse.csc_matrix((height, width))]] * 20
            sbd[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = mat(GTcls=struct)
            sbd[f"benchmark_RELEASE/dataset/inst/{name}.mat"] = b"not needed"
            sbd[f"benchmark_RELEASE/dataset/img/{name}.jpg"] = b"not needed"
    for kind in ("train", "val"):
        voc[f"{top}/ImageSets/Segmentation/{kind}.txt"] = "\n".join(lists[f"voc_{kind}"]).encode() + b"\n"
        voc[f"{top}/ImageSets/Main/{kind}.txt"] = b"other\n"
        sbd[f"benchmark_RELEASE/dataset/{kind}.txt"] = "\n".join(lists[f"sbd_{kind}"]).encode()
    test[f"{top}/ImageSets/Segmentation/test.txt"] = "\n".join(lists["test"]).encode() + b"\n"
    tree = {"VOCtrainval_11-May-2012.tar": voc, "benchmark.tgz": sbd, "VOC2012test.tar": test}
    return tree, lists, truth


def pascal_context(rng: np.random.Generator) -> tuple[Tree, dict[str, list[str]], dict[str, np.ndarray]]:
    """Returns the archives, the names of each split, and the maps of the 459 categories by name."""
    splits = {"train": ["2008_000002", "2010_001234", "2008_000003"], "val": ["2009_000455", "2009_000001"]}
    voc: dict[str, bytes] = {}
    context: dict[str, bytes] = {}
    truth: dict[str, np.ndarray] = {}
    top = "VOCdevkit/VOC2010"
    for split, names in splits.items():
        voc[f"{top}/ImageSets/Main/{split}.txt"] = "\r\n".join(names).encode()
        voc[f"{top}/ImageSets/Main/aeroplane_{split}.txt"] = b"2008_000002 -1\n"
        for name in names:
            voc[f"{top}/JPEGImages/{name}.jpg"] = photo(rng, 20, 30)
            truth[name] = rng.integers(0, 460, (20, 30), dtype=np.uint16)
            context[f"trainval/{name}.mat"] = mat(LabelMap=truth[name])
    voc[f"{top}/JPEGImages/2010_009999.jpg"] = b"an image that no list names"
    return {"VOCtrainval_03-May-2010.tar": voc, "trainval.tar.gz": context}, splits, truth


def coco_stuff10k(rng: np.random.Generator) -> tuple[Tree, dict[str, list[str]], dict[str, np.ndarray]]:
    """Returns the archive, the names of each list, and the label ids by name."""
    absent = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
    ids = np.setdiff1d(np.arange(183), absent)
    lists = {
        "train": [f"COCO_train2014_{int(i):012d}" for i in rng.permutation(10**6)[:3]],
        "test": [f"COCO_train2014_{int(i):012d}" for i in 10**6 + rng.permutation(10**6)[:2]],
    }
    files: dict[str, bytes] = {"README.md": b"read me"}
    truth: dict[str, np.ndarray] = {}
    for split, names in lists.items():
        files[f"imageLists/{split}.txt"] = "\n".join(names).encode() + b"\n"
        for name in names:
            grey = name == lists["train"][0]  # COCO has some
            files[f"images/{name}.jpg"] = photo(rng, 16, 24, mode="L" if grey else "RGB")
            truth[name] = rng.choice(ids, (16, 24)).astype(np.uint8)
            files[f"annotations/{name}.mat"] = mat(
                S=truth[name],
                names=np.array([["unlabeled"], ["person"]], object),
                captions=np.array([["a dog"]], object),
                regionMapStuff=np.zeros((16, 24), np.uint16),
                regionLabelsStuff=np.zeros((3, 1), np.uint16),
            )
    files["imageLists/all.txt"] = files["imageLists/train.txt"] + files["imageLists/test.txt"]
    return {"cocostuff-10k-v1.1.zip": files}, lists, truth


def coco_stuff164k(rng: np.random.Generator) -> tuple[Tree, dict[str, list[str]], dict[str, np.ndarray]]:
    """Returns the archives, the names of each split, and the PNGs' values by name."""
    absent = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    ids = np.setdiff1d([*range(182), 255], absent)
    splits = {"train": ["000000000009", "000000581921"], "val": ["000000000139"]}
    labels: dict[str, bytes] = {}
    truth: dict[str, np.ndarray] = {}
    tree: Tree = {"stuffthingmaps_trainval2017.zip": labels}
    for split, names in splits.items():
        images = tree[f"{split}2017.zip"] = {}
        for name in names:
            images[f"{split}2017/{name}.jpg"] = photo(rng, 16, 24)
            truth[name] = rng.choice(ids, (16, 24)).astype(np.uint8)
            labels[f"{split}2017/{name}.png"] = encode(truth[name])
    return tree, splits, truth


def mmsegmentation_coco(tree: Tree, root: pathlib.Path) -> pathlib.Path:
    """Extracts COCO Stuff 164k into the folders that mmsegmentation expects."""
    for archive, files in tree.items():
        write({archive: files}, root / ("annotations" if "stuff" in archive else "images"), "folder")
    return root


def ade20k(rng: np.random.Generator) -> tuple[Tree, dict[str, np.ndarray]]:
    """Returns the archives and the label ids by name."""
    top = "ADEChallengeData2016"
    files: dict[str, bytes] = {f"{top}/objectInfo150.txt": b"Idx\tRatio\n", f"{top}/sceneCategories.txt": b""}
    truth: dict[str, np.ndarray] = {}
    for folder, short, count in (("training", "train", 4), ("validation", "val", 2)):
        for index in range(1, count + 1):
            name = f"ADE_{short}_{index:08d}"
            height, width = (int(size) for size in rng.integers(8, 30, 2))
            files[f"{top}/images/{folder}/{name}.jpg"] = photo(rng, height, width)
            truth[name] = rng.integers(0, 151, (height, width), dtype=np.uint8)
            files[f"{top}/annotations/{folder}/{name}.png"] = encode(truth[name])
    test = {"release_test/list.txt": b"ADE_test_00000001.jpg\n"}
    for index in (1, 2):
        test[f"release_test/testing/ADE_test_{index:08d}.jpg"] = photo(rng, 9, 11)
    return {"ADEChallengeData2016.zip": files, "release_test.zip": test}, truth
