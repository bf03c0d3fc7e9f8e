"""The modes prepare and check, as `run.py` calls them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from danet_jax.errors import InputError
from danet_jax.modes import check, prepare
from danet_jax.recipe import defaults, read_recipe
from tests.reference import publishers
from tests.reference.refusal import refused


def recipe_of(name, root, tmp_path, **options):
    config = defaults()
    config.dataset.name, config.dataset.root = name, str(root)
    config.dataset.data_dir = str(tmp_path / "data")
    config.dataset.options.update(options)
    return read_recipe(config.to_dict())


def folder(rng, root):
    """A user's own folder: eight training and two validation images of two sizes, two classes."""
    for split, count in (("train", 8), ("val", 2)):
        for index in range(count):
            size = (10, 12) if index else (20, 22)
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            label = np.zeros(size, np.uint8)
            label[: size[0] // 2] = 1
            label[0] = 255
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{index}.png")
    (root / "classes.csv").write_text("id,name\n0,ground\n1,thing\n")
    return root


def test_prepare_reports_sources_and_result(rng, tmp_path, capsys):
    tree, _ = publishers.cityscapes(rng)
    root = publishers.write(tree, tmp_path / "in", "archive")
    recipe = recipe_of("cityscapes", root, tmp_path, allow_partial=True)
    assert prepare.run(recipe, tmp_path / "run", []) == 0
    output = capsys.readouterr().out
    assert "leftImg8bit_trainvaltest.zip (11.6 GB): found" in output
    assert "6 train, 4 val, 2 test; 19 classes" in output
    assert prepare.run(recipe, tmp_path / "run", []) == 0  # nothing to do
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("prepared", [False, True])
def test_check_of_valid_data(rng, tmp_path, capsys, prepared):
    recipe = recipe_of("folder", folder(rng, tmp_path / "in"), tmp_path)
    if prepared:
        prepare.run(recipe, tmp_path, [])
    assert check.run(recipe, tmp_path, []) == 0
    output = capsys.readouterr().out
    assert ("not prepared yet" in output) is not prepared
    rows = [line.replace("│", " ").split() for line in output.splitlines()]
    assert ["train", "8", "8", "2", "10x12", "20x22", "10x12", "(7)"] in [row[:8] for row in rows]
    # Of 10 rows, the first is ignored, the next 4 are things and the last 5 ground; of 20 rows, 1, 9 and 10.
    things, ground = 7 * 12 * 4 + 22 * 9, 7 * 12 * 5 + 22 * 10
    share = f"{100 * things / (things + ground):.3f}"
    [row] = [row for row in rows if row[1:2] == ["thing"]]
    assert row[:5] == ["1", "thing", share, "%", "8"]


def errors_of(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def test_check_lists_all_invalid_examples(rng, tmp_path, capsys):
    root = folder(rng, tmp_path / "in")
    (root / "images/train/1.png").write_bytes((root / "images/train/1.png").read_bytes()[:100])
    Image.fromarray(np.zeros((10, 11), np.uint8)).save(root / "labels/train/2.png")
    Image.fromarray(np.full((10, 12), 7, np.uint8)).save(root / "labels/train/3.png")
    Image.fromarray(np.full((10, 12), 255, np.uint8)).save(root / "labels/train/4.png")
    shutil.copy(root / "images/train/5.png", root / "images/val/1.png")
    assert check.run(recipe_of("folder", root, tmp_path), tmp_path, []) == 1
    output = capsys.readouterr().out
    invalid = errors_of(output)
    assert len(invalid) == 3
    for line, file in zip(
        invalid, ("images/train/1.png", "labels/train/2.png", "labels/train/3.png"), strict=True
    ):
        assert file in line
    assert "3 of 10 examples" in output
    assert "train: 1 images have only ignored pixels: 4" in output
    assert "1 images are in both train and val" in output
    with refused() as caught:  # preparing refuses what check lists
        prepare.run(recipe_of("folder", root, tmp_path), tmp_path, [])
    assert "1.png" in str(caught.value)


def test_check_lists_all_missing_files(rng, tmp_path, capsys):
    root = folder(rng, tmp_path / "in")
    for missing in ("labels/train/0.png", "labels/train/3.png", "images/val/1.png"):
        (root / missing).unlink()
    Image.fromarray(np.full((10, 12), 9, np.uint8)).save(root / "labels/train/5.png")
    recipe = recipe_of("folder", root, tmp_path)
    assert check.run(recipe, tmp_path, []) == 1
    invalid = "\n".join(errors_of(capsys.readouterr().out))
    for file in ("images/train/0.png", "images/train/3.png", "labels/val/1.png", "labels/train/5.png"):
        assert invalid.count(file) == 1
    with refused() as caught:
        prepare.run(recipe, tmp_path, [])
    assert "train/0.png" in str(caught.value)
    assert not list((tmp_path / "data").rglob("*.json"))

    tree, _ = publishers.ade20k(rng)
    files = tree["ADEChallengeData2016.zip"]
    for number in (1, 2):
        del files[f"ADEChallengeData2016/annotations/training/ADE_train_0000000{number}.png"]
    root = publishers.write(tree, tmp_path / "ade20k", "archive")
    for allow_partial in (True, False):
        assert check.run(recipe_of("ade20k", root, tmp_path, allow_partial=allow_partial), tmp_path, []) == 1
        output = capsys.readouterr().out
        assert sum("annotations/training/ADE_train" in line for line in errors_of(output)) == 2
        assert ("20210" in output) is not allow_partial


def test_check_of_archives_without_preparing(rng, tmp_path, capsys):
    tree, lists, _ = publishers.pascal_voc_aug(rng)
    bad = f"benchmark_RELEASE/dataset/cls/{lists['sbd_train'][2]}.mat"
    tree["benchmark.tgz"][bad] = b"MATLAB 5.0"
    root = publishers.write(tree, tmp_path / "in", "archive")
    recipe = recipe_of("pascal_voc_aug", root, tmp_path, allow_partial=True, test=True)
    assert check.run(recipe, tmp_path, []) == 1
    output = capsys.readouterr().out
    assert f"{bad}: " in output
    assert "1 of 12 examples" in output
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_check_names_classes_that_never_occur(rng, tmp_path, capsys):
    root = folder(rng, tmp_path / "in")
    (root / "classes.csv").write_text("id,name\n0,ground\n1,thing\n2,cloud\n")
    assert check.run(recipe_of("folder", root, tmp_path), tmp_path, []) == 0
    assert "val: 1 classes never occur: cloud" in capsys.readouterr().out


def test_check_writes_a_page(rng, tmp_path, capsys):
    root = folder(rng, tmp_path / "in")
    (root / "classes.csv").write_text("id,name\n0,ground\n1,thing\n2,<cloud>\n")
    Image.fromarray(np.full((10, 12), 9, np.uint8)).save(root / "labels/train/5.png")
    recipe = recipe_of("folder", root, tmp_path)
    assert check.run(recipe, tmp_path / "run", []) == 1
    assert capsys.readouterr().out.index("warning: 1 of 3 classes never occur") < 120  # first
    page = (tmp_path / "run/check.html").read_text()
    assert page.index('class="sentence"') < page.index('class="sentence error"') < page.index("<table>")
    assert "labels/train/5.png: label value 9 (120 pixels)" in page
    assert "&lt;cloud&gt;" in page
    assert page.count('<img src="data:image/png;base64,') == 4 + 2  # of each split
    things = 7 * 12 * 4 + 22 * 9 - 12 * 4  # without the invalid label
    assert f">{things}</td>" in page


def test_check_detects_flipped_bits_and_truncation_of_prepared_data(rng, tmp_path, capsys):
    recipe = recipe_of("folder", folder(rng, tmp_path / "in"), tmp_path)
    prepare.run(recipe, tmp_path, [])
    shards = sorted((tmp_path / "data").rglob("*.array_record*"))
    for shard in shards:
        whole = shard.read_bytes()
        for _ in range(4):
            content = bytearray(whole)
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
            shard.write_bytes(content)
            assert check.run(recipe, tmp_path, []) == 1
            assert f"error: {shard}: " in capsys.readouterr().out
        shard.write_bytes(whole[: -int(rng.integers(1, 1000))])
        assert check.run(recipe, tmp_path, []) == 1
        assert str(shard) in capsys.readouterr().out
        shard.write_bytes(whole)
    assert check.run(recipe, tmp_path, []) == 0


def test_reading_a_damaged_shard_names_the_file(rng, tmp_path):
    recipe = recipe_of("folder", folder(rng, tmp_path / "in"), tmp_path)
    source = prepare.recipe_dataset(recipe).source("train")
    examples = list(source)
    [shard] = (tmp_path / "data").rglob("folder-train.array_record*")
    whole = shard.read_bytes()
    for _ in range(15):
        content = bytearray(whole)
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        shard.write_bytes(content)
        try:
            read = list(prepare.recipe_dataset(recipe).source("train"))
        except InputError as error:
            named = str(shard.parent) in str(error)
        else:
            named = read == examples  # the bit is between the records
        assert named
    shard.write_bytes(whole[:-100])
    with refused() as caught:
        list(prepare.recipe_dataset(recipe).source("train"))
    assert str(shard) in str(caught.value)
    (shard.parent / "dataset_info.json").write_text("{")
    with refused() as caught:
        prepare.recipe_dataset(recipe)
    assert "dataset_info.json" in str(caught.value)


def test_hosts_with_different_data_are_detected(rng, tmp_path, monkeypatch):
    first = folder(rng, tmp_path / "first")
    shutil.copytree(first, tmp_path / "second")
    image = np.array(Image.open(tmp_path / "second/images/train/3.png"))
    image[0, 0, 0] ^= 1
    Image.fromarray(image).save(tmp_path / "second/images/train/3.png")
    datasets = [
        prepare.recipe_dataset(recipe_of("folder", tmp_path / name, tmp_path / name))
        for name in ("first", "second")
    ]
    compared = []
    monkeypatch.setattr(prepare, "refuse_differing", lambda facts, what: compared.append(facts))
    for dataset in datasets:
        prepare.refuse_differing_data(dataset)
    first, second = compared
    differing = [key for key in first if first[key] != second[key]]
    assert differing
    assert all("train" in key for key in differing)


def test_validation_on_the_training_split_is_a_warning(rng, tmp_path, capsys):
    config = recipe_of("folder", folder(rng, tmp_path / "in"), tmp_path).as_dict()
    config["dataset"]["validation_split"] = "train"
    prepare.recipe_dataset(read_recipe(config), "train_split", "validation_split")
    assert "config.dataset.validation_split='train'" in capsys.readouterr().err
