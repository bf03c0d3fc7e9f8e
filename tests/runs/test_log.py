"""What a run writes while it trains."""

import json

from danet_jax.runs.log import TrainingLog


def test_a_score_that_is_no_number_is_null(tmp_path, capsys):
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


def test_lines_that_no_run_wrote_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "train/loss": 2.0}\n'
    file.write_bytes(
        b"3\nnull\n\xff\xfe\x00\n" + good + b"[" * 100_000 + b'\n{"step": "x"}\n{"step": 9}\n{"step'
    )
    with TrainingLog(tmp_path, steps=2, start=1):
        pass
    assert file.read_bytes() == good
