"""What a run writes while it trains."""

import json
import resource

import numpy as np

from danet_jax.runs.log import TrainingLog
from tests.reference.refusal import refused


def test_nan_is_logged_as_null(tmp_path, capsys):
    with TrainingLog(tmp_path, steps=2, start=0) as log:
        scores = {"miou": float("nan"), "pixel_accuracy": 0.5}
        log.write(2, scores, prefix="validation", protocol="whole")
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: f"{name} is not JSON")
    assert line == {
        "step": 2,
        "validation/miou": None,
        "validation/pixel_accuracy": 0.5,
        "validation/protocol": "whole",
    }
    assert "step 2/2 validation (whole) miou=nan pixel_accuracy=0.5" in capsys.readouterr().out


def test_damaged_and_later_lines_are_dropped_on_resuming(tmp_path):
    file = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "train/loss": 2.0}\n'
    file.write_bytes(
        b"3\nnull\n\xff\xfe\x00\n" + good + b"[" * 100_000 + b'\n{"step": "x"}\n{"step": 9}\n{"step'
    )
    with TrainingLog(tmp_path, steps=2, start=1):
        pass
    assert file.read_bytes() == good


def test_a_full_disk_under_metrics_jsonl_is_reported_once(tmp_path, capfd):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with refused(what=tmp_path), TrainingLog(tmp_path, steps=2, start=0) as log:
        log.write(1, {"loss": 1.0})
    assert capfd.readouterr().err == ""


def test_a_full_disk_under_tensorboard_files_is_reported_once(tmp_path, rng, capfd):
    image = rng.integers(0, 256, (200, 200, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with refused(what=tmp_path), TrainingLog(tmp_path, steps=2, start=0) as log:
            log.show(1, {"small": image[:9, :9]})
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
            log.show(1, {"large": image})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""
