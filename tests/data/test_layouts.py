"""The published data sets as people keep them: the same pixels from every layout, or a line that says what lacks."""

import os
import re
import zipfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from danet_jax.data import labels
from danet_jax.data.builders.cityscapes import Cityscapes
from danet_jax.data.dataset import dataset_builder, open_dataset
from danet_jax.errors import InputError
from tests.data.test_label_files import shrunk
from tests.reference import publishers
from tests.reference.refusal import refused


def prepare(name, root, tmp_path, **options):
    options = {"allow_partial": True, **options}
    return open_dataset(name, root=root, data_dir=tmp_path / "data", options=options)


def contents(dataset):
    """Image and label pixels by split and name."""
    from danet_jax.data.decode import decode_label

    found = {}
    for split in dataset.splits:
        for example in dataset.source(split):
            label = None if example["label"] is None else decode_label(example["label"], "").tolist()
            found[split, example["name"]] = (example["image"], label)
    return found


def moved(root, old, new):
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


@pytest.mark.parametrize(
    "place", ["VOCdevkit/VOCaug/dataset", "VOCaug/dataset", "sbd", "SBD/benchmark_RELEASE/dataset"]
)
def test_sbd_where_other_tools_put_it(rng, tmp_path, place):
    tree, _, _ = publishers.pascal_voc_aug(rng)
    expected = contents(
        prepare("pascal_voc_aug", publishers.write(tree, tmp_path / "a", "archive"), tmp_path)
    )
    root = publishers.write(tree, tmp_path / "b", "folder")
    moved(root, "benchmark_RELEASE/dataset", place)
    assert contents(prepare("pascal_voc_aug", root, tmp_path)) == expected


@pytest.mark.parametrize("listed", ["train_aug", "trainaug", "aug"])
def test_labels_of_sbd_that_were_converted(rng, tmp_path, listed):
    """As mmsegmentation's converter and the authors of DeepLab make them."""
    tree, lists, _ = publishers.pascal_voc_aug(rng)
    expected = contents(
        prepare("pascal_voc_aug", publishers.write(tree, tmp_path / "a", "archive"), tmp_path)
    )
    root = publishers.write(tree, tmp_path / "b", "folder")
    voc = root / "VOCdevkit/VOC2012"
    (voc / "SegmentationClassAug").mkdir()
    for path in (root / "benchmark_RELEASE/dataset/cls").glob("2*.mat"):
        ids = scipy.io.loadmat(path)["GTcls"][0]["Segmentation"][0]
        Image.fromarray(ids).save(voc / "SegmentationClassAug" / f"{path.stem}.png")
    (root / "benchmark_RELEASE").rename(tmp_path / "elsewhere")
    names = {name for _, name in expected if (("train", name) in expected)}
    if listed == "aug":
        names -= set(lists["voc_train"])
    (voc / f"ImageSets/Segmentation/{listed}.txt").write_text("\n".join(sorted(names)))
    assert contents(prepare("pascal_voc_aug", root, tmp_path)) == expected
    pairs = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
    (voc / f"ImageSets/Segmentation/{listed}.txt").write_text("\n".join(pairs))
    assert contents(prepare("pascal_voc_aug", root, tmp_path)) == expected
    (voc / f"ImageSets/Segmentation/{listed}.txt").write_text("\n".join([*names, lists["voc_val"][0]]))
    with refused(what=voc / f"ImageSets/Segmentation/{listed}.txt"):
        prepare("pascal_voc_aug", root, tmp_path)
    (voc / f"ImageSets/Segmentation/{listed}.txt").unlink()
    with refused(what=voc / "SegmentationClassAug"):
        prepare("pascal_voc_aug", root, tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"background": True}, {"by_category": True}, {"background": True, "by_category": True}]
)
def test_pascal_context_as_mmsegmentation_converts_it(rng, tmp_path, options):
    tree, splits, truth = publishers.pascal_context(rng)
    root = publishers.write(tree, tmp_path / "a", "archive")
    expected = contents(prepare("pascal_context", root, tmp_path, **options))
    # Its converter ranks the categories by their ids; 0 is everything else.
    ranks = {category: rank for rank, category in enumerate(sorted(labels.PASCAL_CONTEXT_59.ids), 1)}
    root = publishers.write(
        {"VOCtrainval_03-May-2010.tar": tree["VOCtrainval_03-May-2010.tar"]}, tmp_path / "b", "folder"
    )
    voc = root / "VOCdevkit/VOC2010"
    for folder in ("SegmentationClassContext", "ImageSets/SegmentationContext"):
        (voc / folder).mkdir(parents=True)
    for name, categories in truth.items():
        converted = np.vectorize(lambda value: ranks.get(int(value), 0))(categories).astype(np.uint8)
        Image.fromarray(converted).save(voc / "SegmentationClassContext" / f"{name}.png")
    for split, names in splits.items():
        (voc / f"ImageSets/SegmentationContext/{split}.txt").write_text("\n".join(names))
    assert contents(prepare("pascal_context", root, tmp_path, **options)) == expected


@pytest.mark.parametrize("form", ["archive", "folder", "converted"])
def test_coco_stuff164k(rng, tmp_path, form):
    tree, splits, truth = publishers.coco_stuff164k(rng)
    if form == "archive":
        root = publishers.write(tree, tmp_path / "in", form)
    else:
        root = tmp_path / "in"
        for archive, files in tree.items():
            folder = root / ("annotations" if "stuff" in archive else "images")
            publishers.write({archive: files}, folder, "folder")
    ids = [i for i in range(182) if i not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]
    train_ids = {
        name: np.vectorize(lambda v: ids.index(v) if v < 255 else 255)(t) for name, t in truth.items()
    }
    if form == "converted":
        for name, label in train_ids.items():
            [path] = (root / "annotations").rglob(f"{name}.png")
            path.unlink()
            Image.fromarray(label.astype(np.uint8)).save(path.with_name(f"{name}_labelTrainIds.png"))
    dataset = prepare("coco_stuff164k", root, tmp_path)
    assert len(dataset.classes) == 171
    found = contents(dataset)
    assert set(found) == {(split, name) for split, names in splits.items() for name in names}
    for (split, name), (image, label) in found.items():
        assert image == tree[f"{split}2017.zip"][f"{split}2017/{name}.jpg"]
        np.testing.assert_array_equal(label, train_ids[name])


@pytest.mark.parametrize("way", ["deeper", "two deeper", "higher", "linked", "the zip", "numbered"])
def test_one_folder_deeper_or_higher_linked_or_numbered(rng, tmp_path, way):
    tree, _ = publishers.cityscapes(rng)
    expected = contents(prepare("cityscapes", publishers.write(tree, tmp_path / "a", "archive"), tmp_path))
    form = "archive" if way in ("the zip", "numbered") else "folder"
    inside = {"deeper": "x/cityscapes", "two deeper": "x/y/z"}.get(way, "x")
    place = publishers.write(tree, tmp_path / inside, form)
    root = tmp_path / "x"
    if way == "higher":
        root = place / "leftImg8bit"
    elif way == "linked":
        root = tmp_path / "link"
        root.symlink_to(place)
    elif way == "the zip":
        root = place / "gtFine_trainvaltest.zip"
    elif way == "numbered":
        for name in tree:
            moved(place, name, name.replace(".zip", " (1).zip"))
    assert contents(prepare("cityscapes", root, tmp_path)) == expected


def test_two_copies_under_one_root(rng, tmp_path):
    """Pictures of one copy must not be taken with labels of the other."""
    tree, _ = publishers.cityscapes(rng)
    root = tmp_path / "in"
    expected = contents(
        prepare("cityscapes", publishers.write(tree, root / "cityscapes", "folder"), tmp_path)
    )
    images = tree["leftImg8bit_trainvaltest.zip"]
    blurred = {
        path: publishers.photo(rng, 12, 24, "png") if path.endswith(".png") else c
        for path, c in images.items()
    }
    for place in ("a_blurred", "."):
        publishers.write({"leftImg8bit_trainvaltest.zip": blurred}, root / place, "folder")
        assert contents(prepare("cityscapes", root, tmp_path)) == expected
    publishers.write(tree, root / "b", "folder")
    with refused(what=root):
        prepare("cityscapes", root, tmp_path)


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "pascal_voc_aug"])
def test_label_files_that_were_made_smaller(rng, tmp_path, name):
    tree = getattr(publishers, name)(rng)[0]
    palette = np.array(publishers.voc_palette(), np.uint8)
    marks = {"cityscapes": "_labelIds.png", "ade20k": "annotations/", "pascal_voc_aug": "/SegmentationClass/"}
    for files in tree.values():
        for path, content in files.items():
            if marks[name] in path and name == "pascal_voc_aug":
                label = Image.fromarray(publishers.ids_of(content))
                label.putpalette(palette.tobytes())
                files[path] = publishers.saved(label)
    expected = contents(prepare(name, publishers.write(tree, tmp_path / "a", "archive"), tmp_path))
    for files in tree.values():
        for path, content in files.items():
            if marks[name] in path:
                ids = publishers.ids_of(content)
                files[path] = shrunk(
                    rng, palette[ids] if name == "pascal_voc_aug" else np.stack([ids] * 3, axis=2)
                )
    small = contents(prepare(name, publishers.write(tree, tmp_path / "b", "archive"), tmp_path))
    assert small == expected


def test_labels_that_are_train_ids_already(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    for path in tree["gtFine_trainvaltest.zip"]:
        if path.endswith("labelIds.png"):
            ids = rng.choice(np.array([*range(19), 255], np.uint8), (12, 24))
            tree["gtFine_trainvaltest.zip"][path] = publishers.encoded(ids)
    with pytest.raises(InputError, match=r"_gtFine_labelIds\.png: "):
        prepare("cityscapes", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)


def test_train_ids_without_255(rng, tmp_path, monkeypatch):
    """Such a file may be meant as it is, and is named; all files of a split are not."""
    tree, _ = publishers.cityscapes(rng)
    fine = tree["gtFine_trainvaltest.zip"]
    paths = [path for path in fine if path.startswith("gtFine/train/") and path.endswith("labelIds.png")]
    for path in paths[:2]:
        fine[path] = publishers.encoded(rng.integers(0, 19, (12, 24), dtype=np.uint8))
    lines = prepare("cityscapes", publishers.write(tree, tmp_path / "a", "archive"), tmp_path).warnings()
    assert any(
        re.match(r"train: 2 of 6 pictures, .* first, without a label id above 18", line) for line in lines
    )
    for path in paths:
        fine[path] = publishers.encoded(rng.integers(0, 19, (12, 24), dtype=np.uint8))
    root = publishers.write(tree, tmp_path / "b", "archive")
    monkeypatch.setattr(Cityscapes, "COUNTS", {"train": 6, "val": 4, "test": 2})
    with refused(what="cityscapes"):
        prepare("cityscapes", root, tmp_path, allow_partial=False)
    assert not list((tmp_path / "data").glob("cityscapes/fine/*"))


def test_partial_data_are_prepared_anew_when_they_change(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    first = contents(prepare("cityscapes", root, tmp_path))
    path = next((root / "gtFine/train").rglob("[!.]*labelIds.png"))
    size = path.stat().st_size
    Image.fromarray(np.full((12, 24), 7, np.uint8)).save(path)  # in place: the folder's time does not change
    changed = contents(prepare("cityscapes", root, tmp_path))
    assert changed != first
    assert path.stat().st_size != size or changed
    for part in ("leftImg8bit", "gtFine"):
        moved(root, f"{part}/train", f"../linked/{part}")
        (root / part / "train").symlink_to(tmp_path / "linked" / part)
    linked = contents(prepare("cityscapes", root, tmp_path))
    assert linked == changed
    name = "ulm_000000_000000"
    for part, kind in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        (tmp_path / "linked" / part / "ulm").mkdir()
        Image.fromarray(np.full((12, 24), 8, np.uint8)).convert("RGB" if "left" in kind else "L").save(
            tmp_path / "linked" / part / "ulm" / f"{name}_{kind}.png"
        )
    assert ("train", name) in contents(prepare("cityscapes", root, tmp_path))


def test_parts_of_cityscapes(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    moved(root, "leftImg8bit/test", "../gone")
    with refused(what=root / "leftImg8bit/test"):
        prepare("cityscapes", root, tmp_path, allow_partial=False)
    assert set(prepare("cityscapes", root, tmp_path).splits) == {"train", "val"}
    moved(root, "leftImg8bit/train/aachen", "../aachen")  # all labels, but not all cities' pictures
    assert prepare("cityscapes", root, tmp_path).splits["train"] == 4
    moved(root, "leftImg8bit/train", "../train")
    assert set(prepare("cityscapes", root, tmp_path).splits) == {"val"}


def test_what_lies_among_the_files(rng, tmp_path):
    tree, _ = publishers.ade20k(rng)
    expected = contents(prepare("ade20k", publishers.write(tree, tmp_path / "a", "archive"), tmp_path))
    root = publishers.write(tree, tmp_path / "b", "folder")
    images = root / "ADEChallengeData2016/images/training"
    for hidden in (".ipynb_checkpoints", "@eaDir"):
        (images / hidden).mkdir()
        (images / hidden / "ADE_train_00000001.jpg").write_bytes(b"")
    assert contents(prepare("ade20k", root, tmp_path)) == expected
    copy = images / "ADE_train_00000001 (1).jpg"
    copy.write_bytes((images / "ADE_train_00000001.jpg").read_bytes())
    with refused(what=copy):
        prepare("ade20k", root, tmp_path)
    copy.unlink()
    copy.symlink_to("nothing")
    with refused(what=copy):
        prepare("ade20k", root, tmp_path)


@pytest.mark.parametrize("way", ["backslashes", "no folder", "deflate64"])
def test_zips_of_other_programs(rng, tmp_path, way):
    tree, _ = publishers.ade20k(rng)
    expected = contents(prepare("ade20k", publishers.write(tree, tmp_path / "a", "archive"), tmp_path))
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree[path.name].items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\") if way == "backslashes" else name
            if way == "no folder":
                info.filename = name.partition("/")[2]
            archive.writestr(info, content)
    if way != "deflate64":
        assert contents(prepare("ade20k", tmp_path / "b", tmp_path)) == expected
        return
    content = path.read_bytes()
    for start, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for at in range(len(content)):
            if content.startswith(start, at):
                content = content[: at + place] + b"\x09\x00" + content[at + place + 2 :]
    path.write_bytes(content)
    with refused() as caught:
        prepare("ade20k", tmp_path / "b", tmp_path)
    assert str(tmp_path / "b") in caught.value.what


def test_hard_links_in_a_tar(rng, tmp_path):
    tree, _, _ = publishers.pascal_voc_aug(rng)
    root = publishers.write(tree, tmp_path / "a", "archive")
    expected = contents(prepare("pascal_voc_aug", root, tmp_path))
    import tarfile

    folder = publishers.write(tree, tmp_path / "b", "folder")
    (root / "VOCtrainval_11-May-2012.tar").unlink()
    with tarfile.open(root / "VOCtrainval_11-May-2012.tar", "w") as archive:
        for path in sorted((folder / "VOCdevkit").rglob("*.[jpt][pnx][gt]")):
            os.link(path, tmp_path / "link")  # so that tar stores the second name as a link to the first
            archive.add(tmp_path / "link", f"other/{path.relative_to(folder)}".replace("VOC2012", "first"))
            archive.add(path, str(path.relative_to(folder)))
            (tmp_path / "link").unlink()
    with tarfile.open(root / "VOCtrainval_11-May-2012.tar") as archive:
        assert any(member.islnk() for member in archive)
    assert contents(prepare("pascal_voc_aug", root, tmp_path)) == expected


def test_refusals_name_what_was_found(rng, tmp_path):
    with refused(what=tmp_path / "nowhere"):
        prepare("ade20k", tmp_path / "nowhere", tmp_path)
    tree, _, _ = publishers.pascal_voc_aug(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    moved(root, "benchmark_RELEASE/dataset", "benchmark_RELEASE/data")
    with refused(what=root) as caught:
        prepare("pascal_voc_aug", root, tmp_path)
    for name in ("benchmark.tgz", f"{root}/benchmark_RELEASE"):  # what is missing, and what is there
        assert name in str(caught.value)
    assert not dataset_builder("pascal_voc_aug", root=root, data_dir=tmp_path / "data").is_prepared()


def test_a_linked_voc2012(rng, tmp_path):
    """A link of another name that is the root, or a link called VOC2012 to a folder of another name."""
    tree, _, _ = publishers.pascal_voc_aug(rng)
    root = publishers.write(tree, tmp_path / "a", "folder")
    expected = contents(prepare("pascal_voc_aug", root, tmp_path))
    moved(root, "VOCdevkit/VOC2012", "../disk/voc_of_2012")
    (root / "VOCdevkit/VOC2012").symlink_to(tmp_path / "disk/voc_of_2012")
    assert contents(prepare("pascal_voc_aug", root, tmp_path)) == expected
    for name in ("VOC2012", "voc"):
        place = tmp_path / name / "in"
        place.mkdir(parents=True)
        (place / name).symlink_to(tmp_path / "disk/voc_of_2012")
        (place / "benchmark_RELEASE").symlink_to(root / "benchmark_RELEASE")
        assert contents(prepare("pascal_voc_aug", place, tmp_path)) == expected
        if name == "VOC2012":
            assert contents(prepare("pascal_voc_aug", place / name, tmp_path)) == expected


@pytest.mark.parametrize(
    "way", ["renamed", "the root itself", "a link", "a link to it is the root", "deeper"]
)
def test_a_linked_or_renamed_ade20k(rng, tmp_path, way):
    tree, _ = publishers.ade20k(rng)
    root = publishers.write(tree, tmp_path / "a", "folder")
    expected = contents(prepare("ade20k", root, tmp_path))
    top = tmp_path / "b" / ("x/ade" if way == "deeper" else "ade")
    top.parent.mkdir(parents=True)
    (root / "ADEChallengeData2016").rename(top)
    place = tmp_path / "b"
    if way == "the root itself":
        place = top
    elif way == "a link":
        place = tmp_path / "c"
        place.mkdir()
        (place / "ADEChallengeData2016").symlink_to(top)
    elif way == "a link to it is the root":
        place = tmp_path / "c"
        place.symlink_to(top)
    assert contents(prepare("ade20k", place, tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("pascal_voc_aug", "VOCdevkit/VOC2012/JPEGImages"),
        ("coco_stuff10k", "images"),
        ("coco_stuff164k", "train2017"),
        ("ade20k", "ADEChallengeData2016/images/training"),
    ],
)
@pytest.mark.parametrize("all_of_train", [False, True])
def test_parts_of_published_data(rng, tmp_path, capsys, name, images, all_of_train):
    """Fewer images than the lists or the labels name: allow_partial leaves these examples out, and reports them."""
    tree = getattr(publishers, name)(rng)[0]
    root = tmp_path / "in"
    publishers.write(tree, root, "folder")
    if name == "coco_stuff164k":  # labels have folders of the same names
        root = tmp_path / "sorted"
        for archive, files in tree.items():
            publishers.write(
                {archive: files}, root / ("annotations" if "stuff" in archive else "images"), "folder"
            )
        images = f"images/{images}"
    expected = contents(prepare(name, root, tmp_path))
    train = sorted(example for split, example in expected if split == "train")
    gone = train if all_of_train else train[:1]
    for example in gone:
        (root / images / f"{example}.jpg").unlink()
    capsys.readouterr()
    found = contents(prepare(name, root, tmp_path))
    assert found == {key: value for key, value in expected.items() if key not in {("train", g) for g in gone}}
    assert f"{len(gone)} of {len(train)}" in capsys.readouterr().err
    with refused():
        prepare(name, root, tmp_path, allow_partial=False)


def test_coco_stuff10k_1_0(rng, tmp_path):
    """Its ids count without a gap from 2, after 1 for unlabelled; each file lists the 172 classes."""
    tree, _, truth = publishers.coco_stuff10k(rng)
    drawn = [i for i in range(1, 183) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]
    to_1_0 = {0: 1, **{label_id: rank for rank, label_id in enumerate(drawn, start=2)}}
    names = {
        version: np.array([[f"class {i}"] for i in range(count)], object)
        for version, count in VERSIONS.items()
    }
    both = {}
    for version, variables in (("1.1", {}), ("1.0", to_1_0)):
        files = dict(tree["cocostuff-10k-v1.1.zip"])
        for name, ids in truth.items():
            values = np.vectorize(lambda value, table=variables: table.get(int(value), int(value)))(ids)
            files[f"annotations/{name}.mat"] = publishers.mat(
                S=values.astype(np.float64), names=names[version]
            )
        for form in ("archive", "folder"):
            folder = tmp_path / version / form
            root = publishers.write({f"cocostuff-10k-v{version}.zip": files}, folder, form)
            both[version, form] = contents(prepare("coco_stuff10k", root, tmp_path))
    assert len({str(sorted(found.items())) for found in both.values()}) == 1


VERSIONS = {"1.0": 172, "1.1": 182}
