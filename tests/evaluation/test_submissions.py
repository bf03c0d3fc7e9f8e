"""Files for test servers: names, label ids, and the same scores as those of the evaluator."""

import io
import json
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.data.dataset import open_dataset
from danet_jax.data.labels import ADE20K, CITYSCAPES, PASCAL_VOC
from danet_jax.data.pipeline import evaluation_examples
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.evaluation.submissions import SERVERS, test_server, write_submission
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from danet_jax.modes import submit
from danet_jax.recipe import defaults, read_recipe
from tests.reference import publishers
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks

test_server.__test__ = False  # a function of the package, not a test


def read_back(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}


CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.mark.parametrize(
    ("dataset", "name", "path", "ids"),
    [
        # The server finds a prediction by CITY_SEQ_FRAME*.png.
        ("cityscapes", "berlin_000123_000019", "{}_labelIds.png", CITYSCAPES_IDS),
        ("pascal_voc_aug", "2008_000006", "results/VOC2012/Segmentation/comp6_test_cls/{}.png", range(21)),
        ("ade20k", "ADE_test_00000001", "{}.png", range(1, 151)),
    ],
)
def test_paths_and_label_ids(rng, tmp_path, dataset, name, path, ids):
    labels = rng.integers(0, len(ids), (20, 30), dtype=np.uint8)
    assert write_submission(SERVERS[dataset], [(name, labels)], tmp_path / "a.zip") == 1
    [(file, image)] = read_back(tmp_path / "a.zip").items()
    assert file == path.format(name)
    np.testing.assert_array_equal(np.array(image), np.array(ids)[labels])
    if dataset == "pascal_voc_aug":
        colours = np.array(PASCAL_VOC.classes.colours)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), colours[labels])
        assert image.getpalette()[255 * 3 :] == [224, 224, 192]  # the colour of the border in VOC's own files
    else:
        assert image.mode == "L"


def test_the_same_predictions_give_the_same_zip(rng, tmp_path):
    predictions = [(f"{index}", rng.integers(0, 19, (5, 6), dtype=np.uint8)) for index in range(3)]
    for name in ("a.zip", "b.zip"):
        write_submission(SERVERS["cityscapes"], predictions, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_failed_submission_leaves_no_file(tmp_path):
    def predictions():
        yield "a", np.zeros((3, 3), np.uint8)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        write_submission(SERVERS["ade20k"], predictions(), tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_invalid_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not one of 19 classes"):
        write_submission(SERVERS["cityscapes"], [("a", np.full((3, 3), 255, np.uint8))], tmp_path / "a.zip")


def test_data_sets_without_a_test_server():
    with refused(what="config.dataset.name", value="coco_stuff10k"):
        test_server("coco_stuff10k")


def score_with_cityscapesscripts(zipped, ground_truth, tmp_path):
    """The class mIoU that the publisher's evaluation gives to the files in a zip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it runs without its C part
        evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(tmp_path / "unzipped")
    evaluation.args.predictionPath = str(tmp_path / "unzipped")
    evaluation.args.predictionWalk = None
    evaluation.args.evalInstLevelScore = False
    evaluation.args.quiet = True
    evaluation.args.JSONOutput = True
    evaluation.args.exportFile = str(tmp_path / "scores.json")
    predictions = [evaluation.getPrediction(evaluation.args, str(path)) for path in ground_truth]
    evaluation.evaluateImgLists(predictions, [str(path) for path in ground_truth], evaluation.args)
    return json.loads((tmp_path / "scores.json").read_text())


def test_the_score_of_a_submission_equals_that_of_the_evaluator(rng, tmp_path, monkeypatch, capsys):
    """Runs the mode on Cityscapes' validation split, and scores its files with the publisher's own scripts."""
    network, variables, _ = small_networks(rng, 19)
    tree, _ = publishers.cityscapes(rng)
    root = publishers.write(tree, tmp_path / "in", "folder")
    config = defaults()
    config.dataset.name, config.dataset.root = "cityscapes", str(root)
    config.dataset.data_dir, config.dataset.test_split = str(tmp_path / "data"), "val"
    config.dataset.options.allow_partial = True
    recipe = read_recipe(config.to_dict())
    classes = CITYSCAPES.classes

    checkpoint = str(tmp_path / "network.pth")
    (tmp_path / "network.pth").touch()

    def load_segmenter(path, protocol):
        assert path == checkpoint
        return Segmenter(network, variables, protocol, classes)

    monkeypatch.setattr(submit, "load_segmenter", load_segmenter)
    assert submit.run(recipe, tmp_path / "run", [], checkpoint=checkpoint) == 0
    zipped = tmp_path / "run" / "submission_cityscapes_val.zip"
    assert str(zipped) in capsys.readouterr().out

    scores = score_with_cityscapesscripts(
        zipped, sorted(root.glob("gtFine/val/*/[!.]*_labelIds.png")), tmp_path
    )
    dataset = open_dataset(
        "cityscapes", root=root, data_dir=tmp_path / "data", options={"allow_partial": True}
    )
    examples = evaluation_examples(dataset.source("val"))
    result = Evaluator(network, classes, Protocol.whole())(variables, examples)
    assert (result.confusion.sum(0) > 0).sum() > 1  # it distinguishes classes
    assert abs(result.miou - scores["averageScoreClasses"]) < 1e-6
    for name, iou in zip(classes.names, result.iou, strict=True):
        np.testing.assert_allclose(iou, scores["classScores"][name], atol=1e-6)


def test_submit_refuses_a_network_of_other_classes(rng):
    network, variables, _ = small_networks(rng, 19)
    segmenter = Segmenter(network, variables, None, Classes.named([f"class {i}" for i in range(19)]))
    with refused("class 0", "class 0", "road"):
        submit.check_classes(segmenter, CITYSCAPES.classes)
    with refused("num_classes", 19, 150):
        submit.check_classes(segmenter, ADE20K.classes)
