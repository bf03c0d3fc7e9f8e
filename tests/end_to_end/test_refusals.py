"""What makes no sense is refused in one line that names it, before anything is read, prepared or written."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = f"--config={ROOT / 'configs/quickstart.py'}"

# Settings that were once accepted, or refused only after data had been prepared.
SETTINGS = [
    "training.learning_rate=nan",
    "training.learning_rate=inf",
    "training.epochs=nan",
    "training.epochs=inf",
    "training.epochs=1e300",
    "training.steps=1000000000000000000000000000000",
    "training.head_multiplier=-1.0",
    "training.head_multiplier=nan",
    "training.momentum=-1.0",
    "training.momentum=1.0",
    "training.momentum=5.0",
    "training.momentum=nan",
    "training.weight_decay=-1.0",
    "training.weight_decay=inf",
    "training.power=-1.0",
    "training.power=nan",
    "training.auxiliary_weight=-1.0",
    "training.loss_weights=(0,0,0)",
    "training.loss_weights=(-1,1,1)",
    "training.loss_weights=(nan,1,1)",
    "training.evaluate_every=0",
    "training.checkpoint_every=0",
    "training.batch_size=1000000000000000000000000000000",
    "seed=4294967296",
    "seed=99999999999999999999999",
    "name=",
    "name=..",
    "name=a/b",
    "dataset.data_dir=",
    "dataset.crop_size=100001",
    "dataset.base_size=1000000000000000000000000000000",
    "dataset.workers=100000",
    "model.attention_backend=nonsense",
    "model.multi_grid=(0,0,0)",
    "model.multi_grid=(-4,8,16)",
    "model.multi_grid=(4,8,16,32)",
    "model.multi_grid=(1000000000,1000000000,1000000000)",
    "evaluation.window=(1000000000,1000000000)",
    "evaluation.scales=(1000000000.0,)",
    "evaluation.base_size=(1000000000000,)",
    "evaluation.whole_base_size=(0,)",
    "evaluation.mean=(nan,0.5,0.5)",
    "evaluation.mean=(123.7,116.3,103.5)",
    "evaluation.std=(inf,0.5,0.5)",
    "evaluation.std=(58.4,57.1,57.4)",
]
# Of the same kinds.
SETTINGS += [
    *(
        "training.steps=0",
        "training.steps=1.5",
        "training.steps=ten",
        "training.epochs=0",
        "training.epochs=-inf",
    ),
    *("training.learning_rate=0", "training.learning_rate=-0.1", "training.learning_rate=1e-300"),
    *("training.loss_weights=(1,1)", "training.loss_weights=(1,1,1,1)", "training.loss_weights=()"),
    *("training.loss_weights=(1,1", "training.loss_weights=a,b,c", "training.loss_weights=(inf,1,1)"),
    *("training.accumulation=0", "training.accumulation=3", "training.log_every=0", "training.log_every=-5"),
    *(
        "training.resume_anyway=perhaps",
        "model.auxiliary=2",
        "model.dropout_rate=1",
        "model.dropout_rate=nan",
    ),
    *(
        "model.dtype=float16",
        "model.dtype=",
        "model.stem=v2",
        "model.output_stride=4",
        "model.output_stride=0",
    ),
    *(
        "model.channel_energy=none",
        "model.multi_grid=(4,)",
        "model.multi_grid=(1.5,2)",
        "model.multi_grid=(True,True)",
    ),
    *("seed=-1", "seed=1e3", "seed=0.5", "name=.", "name=a\nb", f"name={'n' * 300}", "name=/", "name=%20/.."),
    *("dataset.crop_size=0", "dataset.crop_size=7", "dataset.crop_size=-96", "dataset.base_size=0"),
    *(
        "dataset.workers=-1",
        "dataset.name=Scenes",
        "dataset.name=",
        "dataset.train_split=",
        "dataset.data_dir=a\nb",
    ),
    *(
        "dataset.options.height=0",
        "dataset.options.heigth=64",
        "dataset.options.height=tall",
        "dataset.options.train=0",
    ),
    *("dataset.class_names=a,b", "evaluation.protocol=", "evaluation.scales=()", "evaluation.scales=(0,)"),
    *(
        "evaluation.scales=(-1,)",
        "evaluation.scales=(nan,)",
        "evaluation.window=(0,8)",
        "evaluation.window=(8,)",
    ),
    *(
        "evaluation.window=(8,8,8)",
        "evaluation.stride=(8,8)",
        "evaluation.base_size=(1,2,3)",
        "evaluation.edge=fold",
    ),
    *(
        "evaluation.merge=max",
        "evaluation.image_resize=int8",
        "evaluation.mean=(0.5,)",
        "evaluation.std=(0,1,1)",
    ),
    *(
        "evaluation.std=(-1,1,1)",
        "evaluation.flip=maybe",
        "mesh.data=0",
        "mesh.data=-2",
        "mesh.space=0",
        "mesh.data=1.5",
    ),
    *(
        "mesh.data=10000000000",
        "nonsense=1",
        "training.momentun=0.9",
        "training={}",
        "training.steps.foo=1",
        "model=r",
    ),
    *("model.__class__=1", "init.form=x", "training.seed=1"),
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
    name = (
        setting.partition("=")[0].split(".")[0 if "=" in setting.partition(".")[0] else 1].partition("[")[0]
    )
    assert name in refused(main, capsys, QUICKSTART, "--config.mesh.data=2", f"--config.{setting}")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--config.dataset.train_split=nope"],
            "config.dataset.train_split='nope': scenes has no such split",
        ),
        (
            ["--config.dataset.validation_split=nope"],
            "config.dataset.validation_split='nope': scenes has no such",
        ),
        (["--config.dataset.root=somewhere"], "config.dataset.root='somewhere': scenes are drawn, not read"),
        (["--config.init.from=no/such/file.pth"], "no/such/file.pth: no such file"),
        (["--config.init.from=."], "a directory, but not of a run"),
        (["--config.dataset.data_dir=/dev/null"], "/dev/null: cannot be written to"),
        (["--mode=evaluate"], "runs/quickstart: no run here; train first"),
        (["--mode=evaluate", "--checkpoint=absent.pth"], "absent.pth: no such file"),
        (["--mode=evaluate", "--checkpoint=."], ".: a directory, but not of a run"),
        (["--mode=evaluate", "absent.pth"], "absent.pth: no such file"),
        (["--mode=predict", "--checkpoint=a\nb"], "no such file"),
        (["--mode=export", "--format=onnx", "--checkpoint=danet_r51"], "danet_r51: no such file"),
        (["--mode=submit"], "scenes: there is no test server"),
    ],
)
def test_what_does_not_exist_is_refused_before_data_are_prepared(flags, words, main, capsys):
    small = [f"--config.dataset.options.{split}=4" for split in ("train", "val")]
    assert words in refused(main, capsys, QUICKSTART, "--config.mesh.data=2", *small, *flags)


def test_settings_that_contradict_each_other(main, capsys):
    for flags, words in (
        (
            ("evaluation.window=(64,64)", "evaluation.stride=(65,64)"),
            "evaluation.stride=(65, 64) leaves gaps",
        ),
        (
            ("evaluation.window=(7,64)",),
            "window=(7, 64) must be at least config.model.output_stride=8",
        ),
        (("evaluation.scales=(16,)", "evaluation.base_size=(1025,)"), "are 16400 pixels of a side"),
        (("training.batch_size=60000", "dataset.crop_size=2048"), "the first layer alone fills"),
        (
            ("dataset.options.height=100000",),
            "config.dataset.options.height: must be at most 4096, not 100000",
        ),
        (("dataset.options.seed=4294967296",), "config.dataset.options.seed: must be at most 4294967295"),
        (("mesh.data=-1", "mesh.space=-1"), "config.mesh.data=-1"),
        (("model.output_stride=32", "dataset.crop_size=31"), "config.dataset.crop_size=31"),
        (("training.batch_size=6", "training.accumulation=4"), "config.training.batch_size=6"),
        (("training.steps=5", "training={'momentum': 0.5}"), "config.training"),
    ):
        assert words in refused(
            main, capsys, QUICKSTART, "--config.mesh.data=2", *(f"--config.{flag}" for flag in flags)
        )
    error = refused(main, capsys, f"{QUICKSTART}:fcn", "--config.training.loss_weights=(0,1,1)")
    assert "config.training.loss_weights=(0, 1, 1)".replace("0, 1, 1", "0.0, 1.0, 1.0") in error


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
        (["--config..=1"], "--config"),
        (["--config.=1"], "--config"),
        (["--config.a-b=1"], "--config"),
        (["--config.class=1"], "--config"),
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
