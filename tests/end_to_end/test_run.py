"""`run.py` from training to prediction on tiny scenes, and common mistakes."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import FLAGS, ROOT, run
from tests.reference.terminal import run_in_terminal


def test_train_evaluate_predict(trained):
    folder, result = trained
    assert "step 2/2" in result.stdout
    assert "miou" in result.stdout
    workdir = folder / "runs/quickstart"
    config = json.loads((workdir / "config.json").read_text())
    assert config["training"]["steps"] == 2
    assert config["dataset"]["crop_size"] == 32
    assert "jax" in json.loads((workdir / "versions.json").read_text())
    assert "head/position_attention/alpha" in (workdir / "parameters.txt").read_text()
    assert 'class="example"' in (workdir / "report.html").read_text()
    [events] = (workdir / "tensorboard").iterdir()
    assert b"validation/picture_0" in events.read_bytes()
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = set().union(*logged)
    for name in ("loss", "alpha", "beta", "learning_rate", "learning_rate_head", "gradient_norm"):
        assert f"train/{name}" in names
    for name in ("parameter_norm", "images_per_second", "waiting_for_data"):
        assert f"train/{name}" in names

    flags = (*FLAGS, "--config.training.steps=2")
    result = run(*flags, "--mode=evaluate", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "road (red light)" in result.stdout
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    assert evaluation["images"] == 2
    assert 0 <= evaluation["miou"] <= 1
    assert 0 <= evaluation["pixel_accuracy"] <= 1
    assert 0 <= evaluation["mean_accuracy"] <= 1
    assert len(evaluation["iou"]) == 9
    [last] = [line for line in logged if line.get("validation/miou") is not None and line["step"] == 2]
    assert last["validation/protocol"] == evaluation["protocol"]["name"] == "whole"
    assert "step 2/2 validation (whole) miou=" in trained[1].stdout
    # One evaluator: the number of the training and the final one are the same.
    assert evaluation["miou"] == pytest.approx(last["validation/miou"], abs=1e-6)

    photos = folder / "my photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8)).save(photos / "with alpha.png")
    Image.fromarray(rng.integers(0, 256, (37, 41), np.uint8)).save(photos / "grey.jpg")
    (photos / "broken.jpg").write_bytes((photos / "grey.jpg").read_bytes()[:300])
    # Without --config: the run knows what it was made with.
    result = run("--workdir=runs/quickstart", "--mode=predict", photos, "missing.png", cwd=folder)
    assert result.returncode == 1
    assert "broken.jpg" in result.stderr
    assert "missing.png" in result.stderr
    assert "4 files, 2 failed" in result.stdout
    with Image.open(workdir / "predictions/with alpha_labels.png") as labels:
        assert labels.mode == "P"
        assert labels.size == (50, 40)
        assert np.asarray(labels).max() < 9
    with Image.open(workdir / "predictions/grey_overlay.png") as overlay:
        assert overlay.width >= 41

    result = run(*flags, "--mode=predict", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert (workdir / "predictions/val_00000_overlay.png").is_file()


@pytest.fixture
def main_after_training(trained, main, monkeypatch):
    """`run.py`'s main in the folder of the training."""
    monkeypatch.chdir(trained[0])
    return main


def test_flags_replace_options_of_a_trained_network(main_after_training, capsys):
    main = main_after_training
    flags = (*FLAGS, "--mode=evaluate")
    assert main(*flags) == 0
    results = [json.loads(pathlib.Path("runs/quickstart/evaluation.json").read_text())]
    assert main(*flags, "--config.model.align_corners=False", "--config.model.multi_grid=(2,)") == 0
    results.append(json.loads(pathlib.Path("runs/quickstart/evaluation.json").read_text()))
    before, after = (result["config"]["model"] for result in results)
    assert (before["align_corners"], before["multi_grid"]) == (True, [])
    assert after == before | {"align_corners": False, "multi_grid": [2]}
    capsys.readouterr()
    assert main(*flags, "--config.model.backbone=resnet101") == 1
    assert "backbone='resnet101'" in capsys.readouterr().err


def test_ablation_evaluates_without_attention(main_after_training, capsys):
    main = main_after_training
    assert main(*FLAGS, "--mode=evaluate", "--ablate") == 0
    output = capsys.readouterr().out
    assert "points of mIoU lost: alpha 0 " in output
    written = {
        path.parent.name: path for path in pathlib.Path("runs/quickstart/ablation").glob("*/confusion.csv")
    }
    assert sorted(written) == ["alpha_0", "alpha_and_beta_0", "as_trained", "beta_0"]
    assert len({path.read_text() for path in written.values()}) > 1
    assert main(*FLAGS, "--mode=evaluate", "--ablate", "runs/quickstart") == 1
    assert "--ablate" in capsys.readouterr().err


def test_another_recipe_in_the_same_workdir_is_refused(main_after_training, capsys):
    assert (
        main_after_training(*FLAGS, "--config.training.steps=2", "--config.training.learning_rate=0.5") == 1
    )
    error = capsys.readouterr().err
    assert "config.training.learning_rate" in error
    assert "--config.training.resume_anyway=True" in error
    assert error.count("\n") == 1


def test_initial_weights_are_loaded_again_after_an_early_interruption(
    main_after_training, capsys, monkeypatch, tmp_path
):
    main = main_after_training

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("danet_jax.modes.train.to_device", interrupted)
    (tmp_path / "again/checkpoints").mkdir(parents=True)  # as Orbax leaves it before the first checkpoint
    flags = (*FLAGS, "--config.training.steps=2", f"--workdir={tmp_path / 'again'}")
    with pytest.raises(KeyboardInterrupt):
        main(*flags, "--config.init.checkpoint=runs/quickstart")
    assert "runs/quickstart: " in capsys.readouterr().out
    other = ("--config.model.stem=v1c", "--config.training.resume_anyway=True")
    assert main(*flags, "--config.init.checkpoint=runs/quickstart", *other) == 1
    error = capsys.readouterr().err
    assert "runs/quickstart" in error
    assert "stem" in error


def test_resuming_with_other_classes_or_another_network_is_refused(main_after_training, capsys, tmp_path):
    main = main_after_training
    workdir = tmp_path / "run"
    shutil.copytree("runs/quickstart", workdir)
    flags = (*FLAGS, f"--workdir={workdir}", "--config.training.resume_anyway=True")
    before = (workdir / "config.json").read_text()
    assert main(*flags, "--config.training.steps=3", "--config.model.backbone=resnet34") == 1
    assert f"{workdir}/checkpoints/2" in capsys.readouterr().err
    assert (workdir / "config.json").read_text() == before

    classes = json.loads((workdir / "classes.json").read_text())
    classes["names"].reverse()
    (workdir / "classes.json").write_text(json.dumps(classes))
    assert main(*flags, "--config.training.steps=2") == 1
    error = capsys.readouterr().err
    assert f"{workdir}/checkpoints/2" in error
    assert "classes.names" in error


def test_a_finished_training_is_only_reported(trained):
    folder, _ = trained
    report = folder / "runs/quickstart/report.html"
    before = report.stat().st_mtime_ns
    shown = ("--config.training.pictures=1", "--config.training.report=True", "--config.training.steps=2")
    result = run(*FLAGS, *shown, cwd=folder)
    assert result.returncode == 0
    assert "finished at step 2 of 2" in result.stdout
    assert (result.stdout.count("\n"), result.stderr) == (1, "")
    assert report.stat().st_mtime_ns == before


def test_a_terminal_shows_live_lines_from_the_beginning(tmp_path):
    flags = (*FLAGS, "--mode=prepare", "--config.dataset.options.train=150")
    status, [*seen, last] = run_in_terminal(100, ROOT / "run.py", *flags, cwd=tmp_path)
    assert status == 0
    first = next(screen for screen in seen if any(screen))
    assert "working" in first[0]
    lines = [line.rstrip() for screen in seen for line in screen]
    assert any("preparing scenes train " in line and "images/s" in line for line in lines)
    assert max(len(line) for line in lines if "data/scenes" not in line) <= 100
    assert next(line for line in last if line).startswith("scenes: 150 train, 2 val; 9 classes")
