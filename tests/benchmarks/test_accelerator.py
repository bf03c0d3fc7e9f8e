"""The benchmark for whoever has a GPU for a moment must run when that moment comes."""

import json
import os
import subprocess
import sys

import pytest

PARTS = ("convolution", "attention", "step", "predict", "loss")
ALLOWED = {
    # bfloat16 keeps 8 bits; the gradients of a network with batch statistics of few positions are mostly rounding.
    "gradient_error": 0.6,
    "labels_differing": 0.1,
}


def run(tmp_path, *flags):
    output = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--tiny", f"--output={output}", *flags]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return result, rows


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_holds_its_numbers_against_float32(tmp_path):
    result, rows = run(tmp_path, f"--parts={','.join(PARTS)}", "--part-seconds=200")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {row["part"] for row in rows} == set(PARTS)
    for part in PARTS:
        forms = {row["form"].split()[0] for row in rows if row["part"] == part}
        assert {"danet_jax", "torch"} <= forms, part
    for row in rows:
        errors = {k: v for k, v in row.items() if k.endswith("error") or k == "labels_differing"}
        assert errors, row
        for name, error in errors.items():
            assert error < ALLOWED.get(name, 0.05), row
        assert any(name.endswith("_ms") for name in row), row


@pytest.mark.slow
def test_a_training_run_is_measured_and_evaluated_once_more_in_float32(tmp_path):
    result, rows = run(tmp_path, "--parts=camvid", "--part-seconds=400")
    assert result.returncode == 0, result.stdout + result.stderr
    [row] = rows
    assert 0 <= row["miou"] <= 1
    assert row["miou_error"] < 0.5


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    result, rows = run(tmp_path, "--parts=step,convolutions")
    assert result.returncode == 2
    assert "convolutions does not exist; there are: convolution, attention" in result.stderr
    assert not rows
