"""Confusion matrices and metrics against numpy and the script of Cityscapes."""

import csv
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics
from flax import struct

from danet_jax.classes import Classes
from danet_jax.evaluation.confusion import ConfusionMatrix, count_pairs
from danet_jax.evaluation.result import Result, comparison_table
from danet_jax.inference.protocol import Protocol


def counted(labels, predictions, num_classes):
    """Returns the confusion matrix, counted by numpy."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    keep = labels != 255
    np.add.at(confusion, (labels[keep], predictions[keep]), 1)
    return confusion


def result_of(confusion, images=3):
    names = [f"class {index}" for index in range(len(confusion))]
    return Result(np.asarray(confusion, np.int64), Classes.named(names), images, Protocol.whole())


def test_counts_equal_numpy_and_merge_as_a_clu_metric(rng):
    labels = rng.integers(0, 8, (4, 33, 49)).astype(np.uint8)
    labels[labels == 7] = 255
    predictions = rng.integers(0, 7, labels.shape)

    @struct.dataclass
    class Metrics(metrics.Collection):
        confusion: ConfusionMatrix.of(7)

    merged = Metrics.empty()
    for label, prediction in zip(labels, predictions, strict=True):
        update = Metrics.single_from_model_output(
            labels=jnp.asarray(label), predictions=jnp.asarray(prediction)
        )
        merged = merged.merge(update)
    expected = counted(labels, predictions, 7)
    np.testing.assert_array_equal(merged.compute()["confusion"], expected)
    at_once = jax.jit(lambda x, y: count_pairs(x, y, 7))(labels, predictions)
    np.testing.assert_array_equal(at_once, expected)
    stacked = jax.vmap(lambda x, y: ConfusionMatrix.of(7).from_model_output(labels=x, predictions=y))(
        labels, predictions
    )
    np.testing.assert_array_equal(stacked.reduce().compute(), expected)


def test_counts_are_exact_past_32_bits():
    metric = ConfusionMatrix.of(2)
    part = np.array([[2**24 + 1, 2**32 - 1], [2**31 + 7, 0]], np.uint32)
    merged = metric.empty()
    add = jax.jit(lambda merged, part: merged.merge(metric(low=part, high=jnp.zeros_like(part))))
    for _ in range(5):
        merged = add(merged, part)
    np.testing.assert_array_equal(merged.compute(), 5 * part.astype(np.int64))
    doubled = merged.merge(merged)
    np.testing.assert_array_equal(doubled.compute(), 10 * part.astype(np.int64))


def test_metrics_equal_those_of_cityscapes(rng):
    scripts = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    evaluated = sorted(
        (label for label in helpers.labels if not label.ignoreInEval), key=lambda label: label.trainId
    )
    labels = rng.integers(0, 19, (5, 61, 77)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    predictions = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, 19, labels.shape))
    predictions = np.where(predictions == 255, 3, predictions)
    # A class that occurs only in the predictions, and one that does not occur at all.
    labels[labels == 4] = 255
    labels[labels == 9] = 8
    predictions[predictions == 9] = 8
    result = result_of(counted(labels, predictions, 19))

    to_id = np.array([label.id for label in evaluated])
    matrix = scripts.generateMatrix(scripts.args)
    label_ids = np.where(labels == 255, 0, to_id[np.minimum(labels, 18)])
    np.add.at(matrix, (label_ids.ravel(), to_id[predictions].ravel()), 1)
    for label, iou in zip(evaluated, result.iou, strict=True):
        score = scripts.getIouScoreForLabel(label.id, matrix, scripts.args)
        assert iou == pytest.approx(score, rel=1e-12, nan_ok=True), label.name
    assert math.isnan(result.iou[9])
    assert result.iou[4] == 0
    scores = {label.name: scripts.getIouScoreForLabel(label.id, matrix, scripts.args) for label in evaluated}
    assert result.miou == pytest.approx(scripts.getScoreAverage(scores, scripts.args), rel=1e-12)


def test_metrics_by_their_definitions():
    result = result_of([[6, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(result.iou[:2], [6 / 9, 1 / 4])
    assert np.isnan(result.iou[2:]).all()
    assert result.miou == pytest.approx((6 / 9 + 1 / 4) / 2)
    assert result.pixel_accuracy == pytest.approx(7 / 10)
    assert result.mean_accuracy == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert result.frequency_weighted_iou == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)
    nothing = result_of(np.zeros((2, 2)))
    assert math.isnan(nothing.miou)
    assert math.isnan(nothing.frequency_weighted_iou)


def test_files(tmp_path):
    result = result_of([[2**40, 1], [0, 0]])
    result.write(tmp_path / "new", {"checkpoint": "here"})
    read = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert read["miou"] == pytest.approx(result.miou)
    assert read["iou"] == {"class 0": pytest.approx(2**40 / (2**40 + 1)), "class 1": 0.0}
    assert read["accuracy"]["class 1"] is None
    assert read["pixel_accuracy"] == pytest.approx(result.pixel_accuracy)
    assert read["images"] == 3
    assert read["pixels"] == 2**40 + 1
    assert read["checkpoint"] == "here"
    assert set(read["protocol"]) == set(Protocol.__dataclass_fields__) - {"bits"}  # 8
    rows = list(csv.reader((tmp_path / "new" / "confusion.csv").read_text().splitlines()))
    assert rows[0][1:] == ["class 0", "class 1"]
    assert rows[1] == ["class 0", str(2**40), "1"]


def test_tables(capsys):
    import rich

    results = {"one": result_of([[3, 1], [0, 0]]), "two": result_of([[4, 0], [0, 4]])}
    rich.print(comparison_table(results, "data val"))
    text = capsys.readouterr().out
    assert "data val" in text
    assert [line.strip() for line in text.splitlines()[-2:]] == ["3 images", "protocol whole"]
    [row] = [line for line in text.splitlines() if "class 0" in line]
    assert "75.00" in row
    assert "100.00" in row
    rich.print(results["one"].table())
    assert "37.50" in capsys.readouterr().out
