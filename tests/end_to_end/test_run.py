"""`run.py` as its users meet it: from training to prediction on tiny scenes, and what they can get wrong."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from danet_jax.modes.arguments import named_apart

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--config.dataset.options.height=32",
    "--config.dataset.options.width=48",
    "--config.dataset.options.train=6",
    "--config.dataset.options.val=2",
    "--config.dataset.base_size=32",
    "--config.dataset.crop_size=32",
    "--config.dataset.workers=0",
    "--config.training.pictures=0",
    "--config.training.report=False",
    "--config.training.batch_size=2",
    "--config.training.evaluate_every=2",
    "--config.mesh.data=2",
    "--config.model.output_stride=32",
)


def run(*arguments, cwd):
    """`python run.py` in a process of its own, in an empty folder."""
    command = [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which tiny scenes were trained for two steps."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = f"--config={ROOT / 'configs/quickstart.py'}"
    seen = ("--config.training.pictures=1", "--config.training.report=True")
    result = run(recipe, *TINY, *seen, "--config.training.steps=2", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, recipe, result


def test_train_evaluate_predict(trained):
    folder, recipe, result = trained
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

    flags = (*TINY, "--config.training.steps=2")
    result = run(recipe, *flags, "--mode=evaluate", cwd=folder)
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
    assert "step 2/2 validation (whole) miou=" in trained[2].stdout
    # One evaluator: the number of the training and the final one are the same.
    assert evaluation["miou"] == pytest.approx(last["validation/miou"], abs=1e-6)

    pictures = folder / "my pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8)).save(pictures / "with alpha.png")
    Image.fromarray(rng.integers(0, 256, (37, 41), np.uint8)).save(pictures / "grey.jpg")
    (pictures / "broken.jpg").write_bytes((pictures / "grey.jpg").read_bytes()[:300])
    # Without --config: the run knows what it was made with.
    result = run("--workdir=runs/quickstart", "--mode=predict", pictures, "missing.png", cwd=folder)
    assert result.returncode == 1
    assert "broken.jpg" in result.stderr
    assert "missing.png" in result.stderr
    assert "Traceback" not in result.stderr
    with Image.open(workdir / "predictions/with alpha_labels.png") as labels:
        assert labels.mode == "P"
        assert labels.size == (50, 40)
        assert np.asarray(labels).max() < 9
    with Image.open(workdir / "predictions/grey_overlay.png") as overlay:
        assert overlay.width >= 41

    result = run(recipe, *flags, "--mode=predict", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert (workdir / "predictions/val_00000_overlay.png").is_file()


def test_options_of_a_trained_network_are_its_own_but_for_those_that_are_given(
    trained, main, capsys, monkeypatch
):
    folder, recipe, _ = trained
    monkeypatch.chdir(folder)
    flags = (recipe, *TINY, "--mode=evaluate")
    assert main(*flags) == 0
    results = [json.loads(pathlib.Path("runs/quickstart/evaluation.json").read_text())]
    assert main(*flags, "--config.model.align_corners=False", "--config.model.multi_grid=(1, 2)") == 0
    results.append(json.loads(pathlib.Path("runs/quickstart/evaluation.json").read_text()))
    before, after = (result["config"]["model"] for result in results)
    assert (before["align_corners"], before["multi_grid"]) == (True, [])
    assert after == before | {"align_corners": False, "multi_grid": [1, 2]}
    capsys.readouterr()
    assert main(*flags, "--config.model.backbone=resnet101") == 1
    assert "backbone='resnet101'" in capsys.readouterr().err


def test_ablation_takes_away_what_attention_adds(trained, main, capsys, monkeypatch):
    folder, recipe, _ = trained
    monkeypatch.chdir(folder)
    assert main(recipe, *TINY, "--mode=evaluate", "--ablate") == 0
    output = capsys.readouterr().out
    assert "points of mIoU lost: alpha 0 " in output
    written = sorted(
        path.parent.name for path in pathlib.Path("runs/quickstart/ablation").glob("*/evaluation.json")
    )
    assert written == ["alpha_0", "alpha_and_beta_0", "as_trained", "beta_0"]
    assert main(recipe, *TINY, "--mode=evaluate", "--ablate", "runs/quickstart") == 1
    assert "--ablate" in capsys.readouterr().err


def test_another_recipe_in_the_same_workdir_is_refused(trained, main, capsys, monkeypatch):
    folder, recipe, _ = trained
    monkeypatch.chdir(folder)
    assert main(recipe, *TINY, "--config.training.steps=2", "--config.training.learning_rate=0.5") == 1
    error = capsys.readouterr().err
    assert "config.training.learning_rate" in error
    assert "--config.training.resume_anyway=True" in error
    assert error.count("\n") == 1


def test_weights_to_start_from_are_not_forgotten_by_an_early_interruption(
    trained, main, capsys, monkeypatch, tmp_path
):
    folder, recipe, _ = trained
    monkeypatch.chdir(folder)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("danet_jax.modes.train.to_device", interrupted)
    (tmp_path / "again/checkpoints").mkdir(parents=True)  # as Orbax leaves it before the first checkpoint
    flags = (*TINY, "--config.training.steps=2", f"--workdir={tmp_path / 'again'}")
    with pytest.raises(KeyboardInterrupt):
        main(recipe, *flags, "--config.init.checkpoint=runs/quickstart")
    assert "runs/quickstart: " in capsys.readouterr().out
    other = ("--config.model.stem=v1c", "--config.training.resume_anyway=True")
    assert main(recipe, *flags, "--config.init.checkpoint=runs/quickstart", *other) == 1
    error = capsys.readouterr().err
    assert "runs/quickstart" in error
    assert "stem" in error


def test_a_run_is_not_resumed_on_other_classes_or_with_another_network(
    trained, main, capsys, monkeypatch, tmp_path
):
    folder, recipe, _ = trained
    monkeypatch.chdir(folder)
    workdir = tmp_path / "run"
    shutil.copytree("runs/quickstart", workdir)
    flags = (*TINY, f"--workdir={workdir}", "--config.training.resume_anyway=True")
    before = (workdir / "config.json").read_text()
    assert main(recipe, *flags, "--config.training.steps=3", "--config.model.backbone=resnet34") == 1
    assert f"{workdir}/checkpoints/2" in capsys.readouterr().err
    assert (workdir / "config.json").read_text() == before

    classes = json.loads((workdir / "classes.json").read_text())
    classes["names"].reverse()
    (workdir / "classes.json").write_text(json.dumps(classes))
    assert main(recipe, *flags, "--config.training.steps=2") == 1
    assert f"{workdir}/classes.json" in capsys.readouterr().err


def test_results_of_pictures_do_not_overwrite_each_other():
    paths = [pathlib.Path(name) for name in ("x.jpg", "x.png", "x_2.jpg", "a/x.jpg")]
    assert list(named_apart(paths)) == ["x", "x_2", "x_2_2", "x_3"]


def test_a_damaged_checkpoint_is_named_in_one_line(trained, tmp_path):
    folder, _, _ = trained
    shutil.copytree(folder / "runs/quickstart", tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:100])
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    result = run("--workdir=run", "--mode=predict", "x.png", cwd=tmp_path)
    assert result.returncode == 1
    assert "run/checkpoints/2" in result.stderr
    assert "Traceback" not in result.stderr


CAMVID = f"--config={ROOT / 'configs/camvid.py'}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config=FILE"),
        (["--config=configs/cityscape.py"], "configs/cityscapes.py"),
        ([CAMVID, "--config.seed=-1"], "config.seed=-1 "),
        ([CAMVID, "--config.dataset.workers=-1"], "config.dataset.workers=-1"),
        ([CAMVID, "--config.training.steps=0"], "config.training.steps=0"),
        ([CAMVID, "--workdir=ftp://host/run"], "gs://BUCKET/RUN"),
        ([CAMVID, "--mode=evaluate"], "runs/camvid"),
        (
            [CAMVID, "--config.dataset.options.foo=1", "--config.mesh.data=4"],
            "dataset.options.foo",
        ),
        ([f"--config={ROOT / 'configs/cityscapes.py'}:resnet50,pan"], "'pan'"),
        (
            [f"--config={ROOT / 'configs/quickstart.py'}:dane", "--config.dataset.options.height=32"],
            "'dane'",
        ),
        ([CAMVID, "--config.dataset.options.foo.bar=1"], "config.dataset.options.foo.bar"),
        ([CAMVID.removeprefix("-"), "-config.seed=-1"], "config.seed=-1 "),
        (["--config", "configs/camvi.py"], "configs/camvid.py"),
        (["--mode=predict", "--config.seed=1", "x.png"], "--config=FILE"),
        ([CAMVID, "--mode=dance"], "train, evaluate, predict"),
        ([CAMVID, "--mode=evalute"], "did you mean evaluate?"),
        ([CAMVID, "evaluate"], "--mode=evaluate"),
        ([CAMVID, "--workdri=x"], "workdri"),
        ([CAMVID, "--config.training.learnig_rate=1"], "learning_rate, log_every"),
        ([CAMVID, "--config.trainig.steps=1"], "dataset, evaluation"),
        ([CAMVID, "--confg.trainig.steps=1"], "confg"),
        ([CAMVID, "--config.training.batch_size=many"], "batch_size"),
        ([CAMVID, "--config.model.backbone=resnet5"], "resnet18, resnet34, resnet50, resnet101"),
        ([CAMVID + ":resnet5"], "resnet18, resnet34, resnet50, resnet101"),
        ([CAMVID, "--config.model.dtype=float8"], "float32, bfloat16"),
        ([CAMVID, "--config.dataset.name=camvid", "--config.mesh.data=4"], "cityscapes"),
        ([CAMVID, "--config.evaluation.protocol=mine"], "whole, authors"),
        ([CAMVID, "--config.training.batch_size=0"], "config.training.batch_size=0"),
        ([CAMVID, "--config.training.batch_size=9", "--config.mesh.data=2"], "config.training.batch_size=9"),
        ([CAMVID, "--config.mesh.data=3", "--config.mesh.space=-1"], "mesh"),
        ([CAMVID, "--config.dataset.root=nowhere", "--config.mesh.data=4"], "nowhere"),
        ([CAMVID, "--format=onnx"], "--format"),
        (["--mode=predict"], "runs/danet"),
        (["--mode=predict", "--checkpoint=nothing.pth", "x.png"], "nothing.pth"),
        ([f"--config={ROOT / 'configs/cityscapes.py'}"], "leftImg8bit_trainvaltest.zip"),
    ],
)
def test_what_a_user_gets_wrong_is_answered_in_one_line(arguments, expected, main, capsys):
    assert main(*arguments) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1, error
    assert not pathlib.Path("runs").exists()
