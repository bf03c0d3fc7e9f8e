"""Tests that published data sets give the same examples in every layout, or an error that names what is missing."""

import os
import re
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from danet_jax.data import labels
from danet_jax.data.builders import published
from danet_jax.data.dataset import dataset_builder
from danet_jax.errors import InputError
from tests.data.test_label_files import shrunk
from tests.reference import publishers
from tests.reference.images import encode
from tests.reference.publishers import prepare, read
from tests.reference.refusal import refused


def moved(root, old, new):
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


def from_archives(name, tree, tmp_path, **options):
    """Returns the examples that are read from the publisher's archives."""
    return read(name, publishers.write(tree, tmp_path / "published", "archive"), tmp_path, **options)


@pytest.mark.parametrize(
    "folder", ["VOCdevkit/VOCaug/dataset", "VOCaug/dataset", "sbd", "SBD/benchmark_RELEASE/dataset"]
)
def test_sbd_in_the_folders_of_other_tools(rng, tmp_path, folder):
    tree, _, _ = publishers.pascal_voc_aug(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    moved(root, "benchmark_RELEASE/dataset", folder)
    assert read("pascal_voc_aug", root, tmp_path) == from_archives("pascal_voc_aug", tree, tmp_path)


@pytest.mark.parametrize("listed", ["train_aug", "trainaug", "aug"])
def test_converted_labels_of_sbd(rng, tmp_path, listed):
    """The labels are like those of mmsegmentation's converter and of the authors of DeepLab."""
    tree, lists, _ = publishers.pascal_voc_aug(rng)
    expected = from_archives("pascal_voc_aug", tree, tmp_path)
    root = publishers.write(tree, tmp_path / "in", "folder")
    voc = root / "VOCdevkit/VOC2012"
    (voc / "SegmentationClassAug").mkdir()
    for path in (root / "benchmark_RELEASE/dataset/cls").glob("2*.mat"):
        ids = scipy.io.loadmat(path)["GTcls"][0]["Segmentation"][0]
        Image.fromarray(ids).save(voc / "SegmentationClassAug" / f"{path.stem}.png")
    # SBD itself is used while it exists.
    assert read("pascal_voc_aug", root, tmp_path) == expected
    shutil.rmtree(root / "benchmark_RELEASE")
    names = {name for _, name in expected if (("train", name) in expected)}
    if listed == "aug":
        names -= set(lists["voc_train"])
    path = voc / f"ImageSets/Segmentation/{listed}.txt"
    pairs = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
    for lines in (sorted(names), pairs):
        path.write_text("\n".join(lines))
        assert read("pascal_voc_aug", root, tmp_path) == expected
    path.write_text("\n".join([*names, lists["voc_val"][0]]))
    with refused(what=path):
        prepare("pascal_voc_aug", root, tmp_path)
    path.unlink()
    with refused(what=voc / "SegmentationClassAug"):
        prepare("pascal_voc_aug", root, tmp_path)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("by_category", [False, True])
def test_pascal_context_as_mmsegmentation_converts_it(rng, tmp_path, background, by_category):
    tree, splits, truth = publishers.pascal_context(rng)
    options = {"background": background, "by_category": by_category}
    expected = from_archives("pascal_context", tree, tmp_path, **options)
    del tree["trainval.tar.gz"]
    voc = publishers.write(tree, tmp_path / "in", "folder") / "VOCdevkit/VOC2010"
    for folder in ("SegmentationClassContext", "ImageSets/SegmentationContext"):
        (voc / folder).mkdir(parents=True)
    # The converter of mmsegmentation ranks the categories by their ids; 0 is everything else.
    ranks = {category: rank for rank, category in enumerate(sorted(labels.PASCAL_CONTEXT_59.ids), 1)}
    for name, categories in truth.items():
        converted = np.vectorize(lambda value: ranks.get(int(value), 0))(categories).astype(np.uint8)
        Image.fromarray(converted).save(voc / "SegmentationClassContext" / f"{name}.png")
    for split, names in splits.items():
        (voc / f"ImageSets/SegmentationContext/{split}.txt").write_text("\n".join(names))
    assert read("pascal_context", tmp_path / "in", tmp_path, **options) == expected


@pytest.mark.parametrize("beside", [False, True])
def test_coco_stuff164k_as_mmsegmentation_converts_it(rng, tmp_path, beside):
    """The `_labelTrainIds.png` files are alone or next to the publisher's files."""
    tree, _, truth = publishers.coco_stuff164k(rng)
    ids = labels.COCO_STUFF_PNG.ids
    root = publishers.mmsegmentation_coco(tree, tmp_path / "in")
    for name, label in truth.items():
        [path] = (root / "annotations").rglob(f"{name}.png")
        train_ids = np.vectorize(lambda value: ids.index(value) if value < 255 else 255)(label)
        Image.fromarray(train_ids.astype(np.uint8)).save(path.with_name(f"{name}_labelTrainIds.png"))
        if not beside:
            path.unlink()
    assert read("coco_stuff164k", root, tmp_path) == from_archives("coco_stuff164k", tree, tmp_path)


@pytest.mark.parametrize("location", ["deeper", "two deeper", "higher", "linked", "the zip", "numbered"])
def test_one_folder_deeper_or_higher_linked_or_numbered(rng, tmp_path, location):
    tree, _ = publishers.cityscapes(rng)
    form = "archive" if location in ("the zip", "numbered") else "folder"
    inside = {"deeper": "x/cityscapes", "two deeper": "x/y/z"}.get(location, "x")
    top = publishers.write(tree, tmp_path / inside, form)
    root = tmp_path / "x"
    if location == "higher":
        root = top / "leftImg8bit"
    elif location == "linked":
        root = tmp_path / "link"
        root.symlink_to(top)
    elif location == "the zip":
        root = top / "gtFine_trainvaltest.zip"
    elif location == "numbered":
        for name in tree:
            moved(top, name, name.replace(".zip", " (1).zip"))
    assert read("cityscapes", root, tmp_path) == from_archives("cityscapes", tree, tmp_path)


def test_two_copies_under_one_root(rng, tmp_path):
    """Images of one copy must not be paired with labels of the other."""
    tree, _ = publishers.cityscapes(rng)
    root = tmp_path / "in"
    publishers.write(tree, root / "cityscapes", "folder")
    expected = from_archives("cityscapes", tree, tmp_path)
    images = tree["leftImg8bit_trainvaltest.zip"]
    blurred = {
        path: publishers.photo(rng, 12, 24, "png") if path.endswith(".png") else content
        for path, content in images.items()
    }
    for location in ("a_blurred", "."):
        publishers.write({"leftImg8bit_trainvaltest.zip": blurred}, root / location, "folder")
        assert read("cityscapes", root, tmp_path) == expected
    publishers.write(tree, root / "b", "folder")
    with refused(what=root):
        prepare("cityscapes", root, tmp_path)


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "pascal_voc_aug"])
def test_compressed_label_files(rng, tmp_path, name):
    tree = getattr(publishers, name)(rng)[0]
    palette = np.array(publishers.voc_palette(), np.uint8)
    marks = {"cityscapes": "_labelIds.png", "ade20k": "annotations/", "pascal_voc_aug": "/SegmentationClass/"}
    label_files = [(files, path) for files in tree.values() for path in files if marks[name] in path]
    if name == "pascal_voc_aug":
        for files, path in label_files:
            label = Image.fromarray(publishers.ids_of(files[path]))
            label.putpalette(palette.tobytes())
            files[path] = encode(label)
    expected = from_archives(name, tree, tmp_path)
    for files, path in label_files:
        ids = publishers.ids_of(files[path])
        files[path] = shrunk(rng, palette[ids] if name == "pascal_voc_aug" else np.stack([ids] * 3, axis=2))
    assert read(name, publishers.write(tree, tmp_path / "in", "archive"), tmp_path) == expected


def test_cityscapes_labels_that_are_train_ids(rng, tmp_path, monkeypatch):
    """A file with 255 is refused; files without it are reported, and a split of nothing else is refused."""
    tree, _ = publishers.cityscapes(rng)
    fine = tree["gtFine_trainvaltest.zip"]
    paths = [path for path in fine if path.startswith("gtFine/train/") and path.endswith("labelIds.png")]

    def written(paths, ids):
        for path in paths:
            fine[path] = encode(rng.choice(np.array(ids, np.uint8), (12, 24)))
        return publishers.write(tree, tmp_path / "in", "archive")

    lines = prepare("cityscapes", written(paths[:2], range(19)), tmp_path).warnings()
    assert any(re.match(r"train: 2 of 6 \w+, .* first, without a label id above 18", line) for line in lines)
    monkeypatch.setitem(published.PUBLISHED["cityscapes"], "counts", {"train": 6, "val": 4, "test": 2})
    root = written(paths, range(19))
    with refused(what="cityscapes"):
        prepare("cityscapes", root, tmp_path, allow_partial=False)
    assert not list((tmp_path / "data").glob("cityscapes/fine/*"))
    with pytest.raises(InputError, match=r"_gtFine_labelIds\.png: "):
        prepare("cityscapes", written(paths[:1], [*range(19), 255]), tmp_path)


def test_partial_data_are_prepared_again_when_they_change(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    first = read("cityscapes", root, tmp_path)
    path = next((root / "gtFine/train").rglob("[!.]*labelIds.png"))
    Image.fromarray(np.full((12, 24), 7, np.uint8)).save(path)  # The time of the folder does not change.
    changed = read("cityscapes", root, tmp_path)
    assert changed != first
    for part in ("leftImg8bit", "gtFine"):
        moved(root, f"{part}/train", f"../linked/{part}")
        (root / part / "train").symlink_to(tmp_path / "linked" / part)
    assert read("cityscapes", root, tmp_path) == changed
    for part, kind, mode in (("leftImg8bit", "leftImg8bit", "RGB"), ("gtFine", "gtFine_labelIds", "L")):
        (tmp_path / "linked" / part / "ulm").mkdir()
        Image.new(mode, (24, 12)).save(tmp_path / "linked" / part / f"ulm/ulm_000000_000000_{kind}.png")
    assert ("train", "ulm_000000_000000") in read("cityscapes", root, tmp_path)


def test_a_missing_split_of_cityscapes(rng, tmp_path):
    root = publishers.write(publishers.cityscapes(rng)[0], tmp_path / "in", "folder")
    shutil.rmtree(root / "leftImg8bit/test")
    with refused(what=root / "leftImg8bit/test/*_leftImg8bit.png"):
        prepare("cityscapes", root, tmp_path, allow_partial=False)
    assert set(prepare("cityscapes", root, tmp_path).splits) == {"train", "val"}


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("cityscapes", "leftImg8bit/train/*/*.png"),
        ("pascal_voc_aug", "VOCdevkit/VOC2012/JPEGImages/*.jpg"),
        ("pascal_context", "VOCdevkit/VOC2010/JPEGImages/*.jpg"),
        ("coco_stuff10k", "images/*.jpg"),
        ("coco_stuff164k", "images/train2017/*.jpg"),
        ("ade20k", "ADEChallengeData2016/images/training/*.jpg"),
    ],
)
def test_images_that_allow_partial_leaves_out(rng, tmp_path, capsys, name, images):
    tree = getattr(publishers, name)(rng)[0]
    root = tmp_path / "in"
    if name == "coco_stuff164k":
        publishers.mmsegmentation_coco(tree, root)
    else:
        publishers.write(tree, root, "folder")
    expected = read(name, root, tmp_path)
    train = sorted(example for split, example in expected if split == "train")
    for gone in (train[:1], train):
        for path in root.glob(images):
            if path.name.startswith(tuple(gone)):
                path.unlink()
        capsys.readouterr()
        left = {key: value for key, value in expected.items() if key not in {("train", x) for x in gone}}
        assert read(name, root, tmp_path) == left
        assert f"{len(gone)} of {len(train)}" in capsys.readouterr().err
        with refused():
            prepare(name, root, tmp_path, allow_partial=False)


def test_stray_files_are_skipped_and_copies_and_broken_links_refused(rng, tmp_path):
    tree, _ = publishers.ade20k(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    images = root / "ADEChallengeData2016/images/training"
    for hidden in (".ipynb_checkpoints", "@eaDir"):
        (images / hidden).mkdir()
        (images / hidden / "ADE_train_00000001.jpg").write_bytes(b"")
    assert read("ade20k", root, tmp_path) == from_archives("ade20k", tree, tmp_path)
    copy = images / "ADE_train_00000001 (1).jpg"
    copy.write_bytes((images / "ADE_train_00000001.jpg").read_bytes())
    with refused(what=copy):
        prepare("ade20k", root, tmp_path)
    copy.unlink()
    copy.symlink_to("nothing")
    with refused(what=copy):
        prepare("ade20k", root, tmp_path)


@pytest.mark.parametrize("form", ["backslashes", "no folder", "deflate64", "encrypted"])
def test_zips_of_other_programs(rng, tmp_path, form):
    tree, _ = publishers.ade20k(rng)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree[path.name].items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\") if form == "backslashes" else name
            if form == "no folder":
                info.filename = name.partition("/")[2]
            archive.writestr(info, content)
    if form in ("backslashes", "no folder"):
        assert read("ade20k", tmp_path / "in", tmp_path) == from_archives("ade20k", tree, tmp_path)
        return
    content = path.read_bytes()
    at, mark = (2, b"\x09\x00") if form == "deflate64" else (0, b"\x01\x00")
    for start, location in ((b"PK\x03\x04", 6 + at), (b"PK\x01\x02", 8 + at)):
        for found in re.finditer(re.escape(start), content):
            content = content[: found.start() + location] + mark + content[found.start() + location + 2 :]
    path.write_bytes(content)
    with refused() as caught:
        prepare("ade20k", tmp_path / "in", tmp_path)
    assert str(tmp_path / "in") in caught.value.what


def test_hard_links_in_a_tar(rng, tmp_path):
    tree, _, _ = publishers.pascal_voc_aug(rng)
    root = publishers.write(tree, tmp_path / "in", "archive")
    folder = publishers.write(tree, tmp_path / "extracted", "folder")
    with tarfile.open(root / "VOCtrainval_11-May-2012.tar", "w") as archive:
        for path in sorted((folder / "VOCdevkit").rglob("*.[jpt][pnx][gt]")):
            os.link(path, tmp_path / "link")  # The tar stores the second name as a link to the first.
            archive.add(tmp_path / "link", f"other/{path.relative_to(folder)}".replace("VOC2012", "first"))
            archive.add(path, str(path.relative_to(folder)))
            (tmp_path / "link").unlink()
        assert any(member.islnk() for member in archive.getmembers())
    assert read("pascal_voc_aug", root, tmp_path) == from_archives("pascal_voc_aug", tree, tmp_path)


def test_refusals_name_the_nearest_match(rng, tmp_path):
    with refused(what=tmp_path / "nowhere"):
        prepare("ade20k", tmp_path / "nowhere", tmp_path)
    tree, _, _ = publishers.pascal_voc_aug(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    moved(root, "benchmark_RELEASE/dataset", "benchmark_RELEASE/data")
    with refused(what=root) as caught:
        prepare("pascal_voc_aug", root, tmp_path)
    # The message names the missing archive and the folder that exists.
    for name in ("benchmark.tgz", f"{root}/benchmark_RELEASE"):
        assert name in str(caught.value)
    assert not dataset_builder("pascal_voc_aug", root=root, data_dir=tmp_path / "data").is_prepared()


def test_a_linked_voc2012(rng, tmp_path):
    """The root is a link with another name, or a link called VOC2012 points to a folder with another name."""
    tree, _, _ = publishers.pascal_voc_aug(rng)
    expected = from_archives("pascal_voc_aug", tree, tmp_path)
    root = publishers.write(tree, tmp_path / "a", "folder")
    moved(root, "VOCdevkit/VOC2012", "../disk/voc_of_2012")
    (root / "VOCdevkit/VOC2012").symlink_to(tmp_path / "disk/voc_of_2012")
    assert read("pascal_voc_aug", root, tmp_path) == expected
    for name in ("VOC2012", "voc"):
        location = tmp_path / name / "in"
        location.mkdir(parents=True)
        (location / name).symlink_to(tmp_path / "disk/voc_of_2012")
        (location / "benchmark_RELEASE").symlink_to(root / "benchmark_RELEASE")
        assert read("pascal_voc_aug", location, tmp_path) == expected
    assert read("pascal_voc_aug", tmp_path / "VOC2012/in/VOC2012", tmp_path) == expected


@pytest.mark.parametrize("location", ["renamed", "the root itself", "a link", "a link is the root", "deeper"])
def test_a_linked_or_renamed_ade20k(rng, tmp_path, location):
    tree, _ = publishers.ade20k(rng)
    top = tmp_path / "b" / ("x/ade" if location == "deeper" else "ade")
    top.parent.mkdir(parents=True)
    (publishers.write(tree, tmp_path / "a", "folder") / "ADEChallengeData2016").rename(top)
    root = {"the root itself": top, "a link": tmp_path / "c", "a link is the root": tmp_path / "c"}.get(
        location, tmp_path / "b"
    )
    if location == "a link":
        root.mkdir()
        (root / "ADEChallengeData2016").symlink_to(top)
    elif location == "a link is the root":
        root.symlink_to(top)
    assert read("ade20k", root, tmp_path) == from_archives("ade20k", tree, tmp_path)


def test_coco_stuff10k_1_0(rng, tmp_path):
    """The ids of version 1.0 are consecutive from 2, with 1 for unlabelled; each file lists the 172 classes."""
    tree, _, truth = publishers.coco_stuff10k(rng)
    drawn = [i for i in range(1, 183) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]
    to_1_0 = {0: 1, **{label_id: rank for rank, label_id in enumerate(drawn, start=2)}}
    found = []
    for version, count, table in (("1.1", 182, {}), ("1.0", 172, to_1_0)):
        names = np.array([[f"class {i}"] for i in range(count)], object)
        files = dict(tree["cocostuff-10k-v1.1.zip"])
        for name, ids in truth.items():
            values = np.vectorize(lambda value, table=table: table.get(int(value), int(value)))(ids)
            files[f"annotations/{name}.mat"] = publishers.mat(S=values.astype(np.float64), names=names)
        for form in ("archive", "folder"):
            root = publishers.write({f"cocostuff-10k-v{version}.zip": files}, tmp_path / version / form, form)
            found.append(read("coco_stuff10k", root, tmp_path))
    assert all(others == found[0] for others in found)
