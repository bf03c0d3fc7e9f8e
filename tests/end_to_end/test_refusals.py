"""What makes no sense is refused in one line that names it, before anything is read, prepared or written."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = str(ROOT / "configs/quickstart.py")
QUICKSTART = f"--config={RECIPE}"

# How flags become values of each type; which values an option takes is tested in tests/recipe.
SETTINGS = [
    "training.learning_rate=nan",
    "training.learning_rate=1e-300",
    "training.epochs=1e300",
    "training.steps=1.5",
    "training.steps=ten",
    "training.steps=1000000000000000000000000000000",
    "training.momentun=0.9",
    "training.steps.foo=1",
    "training.seed=1",
    "training={}",
    "training.loss_weights=(nan,1,1)",
    "training.loss_weights=(1,1",
    "training.loss_weights=a,b,c",
    "training.resume_anyway=perhaps",
    "evaluation.flip=maybe",
    "evaluation.mean=(123.7,116.3,103.5)",
    "evaluation.protocol=",
    "evaluation.window=(1000000000,1000000000)",
    "model.__class__=1",
    "model.multi_grid=(1.5,2)",
    "model.multi_grid=(True,True)",
    "model.multi_grid=(4,8,16)",
    "model=r",
    "name=a\nb",
    "name=%20/..",
    "seed=1e3",
    "nonsense=1",
    "init.form=x",
    "dataset.class_names=a,b",
    "dataset.options.height=0",
    "dataset.options.height=tall",
    "dataset.options.heigth=64",
    "dataset.options.height.width=64",
]


def refused(main, capsys, *arguments):
    """The one line that is said; nothing is left on disk."""
    before = sorted(pathlib.Path().rglob("*"))
    status = main(*arguments)
    output = capsys.readouterr()
    assert status == 1, output.out[:300]
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("run.py: ")
    assert len(output.err) < 600
    assert output.out == ""
    assert sorted(pathlib.Path().rglob("*")) == before
    return output.err


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_make_no_sense(setting, main, capsys):
    option = setting.partition("=")[0]
    error = refused(main, capsys, QUICKSTART, "--config.mesh.data=2", f"--config.{setting}")
    assert option in error


def test_a_misspelled_option_is_answered_with_the_nearest(main, capsys):
    for setting, near in (("training.momentun=0.9", "momentum"), ("trainin.steps=1", "training")):
        assert f"did you mean {near}?" in refused(main, capsys, QUICKSTART, f"--config.{setting}")
    assert "did you mean mmseg?" in refused(main, capsys, QUICKSTART, "--config.evaluation.protocol=mseg")


@pytest.mark.parametrize("flag", ["init.from", "init.source", "init.checkpoint"])
def test_the_checkpoint_to_start_from_has_two_old_names(flag, main, capsys):
    error = refused(main, capsys, QUICKSTART, "--config.mesh.data=1", f"--config.{flag}=no/such/file.pth")
    assert "no/such/file.pth" in error
    assert ("deprecated" in error) == (flag != "init.checkpoint")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--config.dataset.train_split=nope"],
            "config.dataset.train_split",
        ),
        (
            ["--config.dataset.validation_split=nope"],
            "config.dataset.validation_split",
        ),
        (["--config.dataset.root=somewhere"], "config.dataset.root"),
        (["--config.init.checkpoint=no/such/file.pth"], "no/such/file.pth"),
        (["--config.init.checkpoint=."], ".: "),
        (["--config.dataset.data_dir=/dev/null"], "/dev/null"),
        (["--mode=evaluate"], "runs/quickstart"),
        (["--mode=evaluate", "--checkpoint=absent.pth"], "absent.pth"),
        (["--mode=evaluate", "--checkpoint=."], ".: "),
        (["--mode=evaluate", "absent.pth"], "absent.pth"),
        (["--mode=evaluate", "--checkpoint=/dev/null"], "/dev/null"),
        (["--mode=evaluate", f"--checkpoint={RECIPE}"], RECIPE),
        (["--mode=evaluate", RECIPE], RECIPE),
        (["--mode=predict", "--checkpoint=a\nb"], "a\\nb"),
        (["--mode=export", "--format=onnx", "--checkpoint=danet_r51"], "danet_r51"),
        (["--mode=submit"], "config.dataset.name=scenes"),
    ],
)
def test_what_does_not_exist_is_refused_before_data_are_prepared(flags, words, main, capsys):
    small = [f"--config.dataset.options.{split}=4" for split in ("train", "val")]
    assert words in refused(main, capsys, QUICKSTART, "--config.mesh.data=2", *small, *flags)


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        (["evaluation.window=(64,64)", "evaluation.stride=(65,64)"], "config.evaluation.stride=(65, 64)"),
        (["training.batch_size=60000", "dataset.crop_size=2048"], "config.training.batch_size"),
        (["dataset.options.height=100000"], "config.dataset.options.height"),
        (["dataset.options.seed=4294967296"], "config.dataset.options.seed"),
        (["training.steps=5", "training={'momentum': 0.5}"], "config.training"),
        (["training.loss_weights=(0,0,1)"], "config.training.loss_weights=(0.0, 0.0, 1.0)"),
    ],
)
def test_settings_that_contradict_each_other_or_the_data(settings, option, main, capsys):
    flags = [f"--config.{setting}" for setting in settings]
    assert option in refused(main, capsys, f"{QUICKSTART}:pam", "--config.mesh.data=2", *flags)


@pytest.mark.parametrize(
    "workdir", ["", " ", ".", "..", "/", "../", "a\nb", "a\0b", "n" * 300, "a/" * 3000, "ftp://b/run"]
)
def test_directories_that_make_no_sense(workdir, main, capsys):
    assert "--workdir" in refused(main, capsys, QUICKSTART, f"--workdir={workdir}")


def test_directories_that_cannot_be_written_to(main, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for workdir in ("file", "file/run", "loop", "loop/run", "/proc/run", "/dev/null"):
        assert f"--workdir={workdir}" in refused(main, capsys, QUICKSTART, f"--workdir={workdir}")
    (tmp_path / "runs").write_text("")
    assert "runs/NAME=runs/quickstart: " in refused(main, capsys, QUICKSTART)
    (tmp_path / "locked").mkdir(mode=0o555)
    if not os.access(tmp_path / "locked", os.W_OK):  # of root everything can be written to
        assert "cannot be written to" in refused(main, capsys, QUICKSTART, "--workdir=locked/run")


def test_flags_that_make_no_sense(main, capsys):
    for arguments, words in (
        (["--mode="], "--mode="),
        (["--mode=Train"], "there are: train"),
        (["--checkpoint=x"], "--checkpoint is not for --mode=train"),
        (["--mode=evaluate", "--checkpoint="], "--checkpoint= is empty"),
        (["--mode=export", "--format="], "--format= is empty"),
        (["--distributed=perhaps"], "distributed"),
        (["--config"], "--config"),
        (["--config.seed"], "--config.seed"),
        (["--workdir"], "--workdir"),
        (["--no-such-flag"], "no-such-flag"),
        (["--config..=1"], "config."),
        (["--config.=1"], "config."),
        (["--config.a-b=1"], "config.a-b"),
        (["--config.class=1"], "config.class"),
        (["--config.training[0]=1"], "config"),
        (["--flagfile=nowhere"], "nowhere"),
        ([""], "an argument after the flags is empty"),
        (["--mode=predict", ""], "an argument after the flags is empty"),
        (["surplus"], "surplus: --mode=train takes no arguments"),
    ):
        assert words in refused(main, capsys, QUICKSTART, "--config.mesh.data=2", *arguments)


def test_a_device_that_jax_does_not_find_is_named(tmp_path):
    """And not a checkpoint, which would be blamed where it is read first."""
    command = [sys.executable, str(ROOT / "run.py"), QUICKSTART]
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("run.py: JAX finds no device: Unable to initialize backend 'nonsense'")
    assert "unset JAX_PLATFORMS=nonsense" in result.stderr
    assert list(tmp_path.iterdir()) == []
