"""Invalid input is refused in one line that names it, before anything is read, prepared or written."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.end_to_end.conftest import QUICKSTART, ROOT

RECIPE = str(ROOT / "configs/quickstart.py")
CAMVID = f"--config={ROOT / 'configs/camvid.py'}"
SMALL = (
    QUICKSTART,
    "--config.mesh.data=2",
    *(f"--config.dataset.options.{split}=4" for split in ("train", "val")),
)

# What is changed by flags, and how text becomes a value of each type; which values an option takes is tested in
# tests/recipe. The option is named unless other words are given.
SETTINGS = {
    "training.learning_rate=nan": "",
    "training.steps=1.5": "",
    "training.momentun=0.9": "did you mean momentum?",
    "trainin.steps=1": "did you mean training?",
    "training={}": "",
    "training.loss_weights=(nan,1,1)": "",
    "training.loss_weights=(1,1": "",
    "training.loss_weights=a,b,c": "",
    "training.resume_anyway=perhaps": "",
    "evaluation.flip=maybe": "",
    "evaluation.protocol=": "",
    "evaluation.protocol=mseg": "did you mean mmseg?",
    "model.__class__=1": "",
    "model.multi_grid=(1.5,2)": "",
    "model.backbone=resnet5": "resnet18, resnet34, resnet50, resnet101",
    "model=r": "",
    "name=a\nb": "",
    "seed=1e3": "",
    "seed": "--config.seed",
    "nonsense=1": "",
    "init.form=x": "",
    "dataset.class_names=a,b": "",
    "dataset.options.height=tall": "",
    "dataset.options.height=100000": "",
    "dataset.options.heigth=64": "",
    "dataset.options.height.width=64": "",
    "dataset.root=somewhere": "",
    "dataset.train_split=nope": "",
    "dataset.validation_split=nope": "",
    "dataset.data_dir=/dev/null": "/dev/null",
    "init.checkpoint=no/such/file.pth": "no/such/file.pth",
    "init.checkpoint=.": "config.json",
    ".=1": "config.",
    "=1": "config.",
    "a-b=1": "",
    "class=1": "",
    "training[0]=1": "config",
}

FLAGS = [
    ([], "--config=FILE"),
    (["--config=configs/cityscape.py"], "configs/cityscapes.py"),
    (["--config", "configs/camvi.py"], "configs/camvid.py"),
    (["--config"], "--config"),
    ([f"--config={ROOT / 'configs/cityscapes.py'}:resnet50,pan"], "'pan'"),
    ([f"{QUICKSTART}:dane", "--config.dataset.options.height=32"], "'dane'"),
    ([f"{QUICKSTART}:pam", "--config.training.loss_weights=(0,0,1)"], "loss_weights=(0.0, 0.0, 1.0)"),
    ([CAMVID + ":resnet5"], "resnet18, resnet34, resnet50, resnet101"),
    ([CAMVID.removeprefix("-"), "-config.seed=-1"], "config.seed=-1 "),
    ([CAMVID, "--config.mesh.data=3", "--config.mesh.space=-1"], "mesh"),
    ([CAMVID, "--config.dataset.root=nowhere", "--config.mesh.data=4"], "nowhere"),
    ([CAMVID, "--config.dataset.options.foo=1", "--config.mesh.data=4"], "config.dataset.options.foo"),
    ([f"--config={ROOT / 'configs/cityscapes.py'}"], "leftImg8bit_trainvaltest.zip"),
    (
        [*SMALL, "--config.training.batch_size=60000", "--config.dataset.crop_size=2048"],
        "config.training.batch_size",
    ),
    ([*SMALL, "--config.evaluation.window=(64,64)", "--config.evaluation.stride=(65,64)"], "stride=(65, 64)"),
    ([*SMALL, "--mode="], "--mode="),
    ([*SMALL, "--mode=dance"], "train, evaluate, predict"),
    ([*SMALL, "--mode=evalute"], "did you mean evaluate?"),
    ([*SMALL, "evaluate"], "--mode=evaluate"),
    ([*SMALL, "surplus"], "surplus: --mode=train takes no arguments"),
    ([*SMALL, ""], "an argument after the flags is empty"),
    ([*SMALL, "--workdri=x"], "did you mean --workdir?"),
    ([*SMALL, "--confg.trainig.steps=1"], "did you mean --config?"),
    ([*SMALL, "--no-such-flag"], "no-such-flag"),
    ([*SMALL, "--workdir"], "--workdir"),
    ([*SMALL, "--flagfile=nowhere"], "nowhere"),
    ([*SMALL, "--distributed=perhaps"], "distributed"),
    ([*SMALL, "--join_timeout=0"], "--join_timeout"),
    ([*SMALL, "--coordinator=here", "--processes=2", "--process=0"], "--coordinator"),
    ([*SMALL, "--coordinator=here:1", "--process=0"], "--processes"),
    ([*SMALL, "--coordinator=here:1", "--processes=2", "--process=2"], "--process"),
    ([*SMALL, "--processes=2"], "--coordinator"),
    ([*SMALL, "--checkpoint=x"], "--checkpoint applies to --mode=evaluate"),
    ([*SMALL, "--format=onnx"], "--format"),
    ([*SMALL, "--mode=export", "--format="], "--format= is empty"),
    ([*SMALL, "--mode=evaluate"], "runs/quickstart"),
    ([*SMALL, "--mode=evaluate", "--checkpoint="], "--checkpoint= is empty"),
    ([*SMALL, "--mode=evaluate", "--checkpoint=absent.pth"], "absent.pth"),
    ([*SMALL, "--mode=evaluate", "--checkpoint=."], "config.json"),
    ([*SMALL, "--mode=evaluate", "--checkpoint=/dev/null"], "/dev/null"),
    ([*SMALL, "--mode=evaluate", f"--checkpoint={RECIPE}"], RECIPE),
    ([*SMALL, "--mode=predict", "--checkpoint=a\nb"], "a\\nb"),
    ([*SMALL, "--mode=export", "--format=onnx", "--checkpoint=danet_r51"], "danet_r51"),
    ([*SMALL, "--mode=submit"], "config.dataset.name=scenes"),
    (["--mode=predict"], "runs/danet"),
    (["--mode=predict", "--config.seed=1", "x.png"], "--config=FILE"),
    (["--mode=predict", "--checkpoint=nothing.pth", "x.png"], "nothing.pth"),
]


def refused(main, capsys, *arguments):
    """Returns the one line that is printed; nothing is left on disk."""
    before = sorted(pathlib.Path().rglob("*"))
    status = main(*arguments)
    output = capsys.readouterr()
    assert status == 1, output.out[:300]
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("run.py: ")
    assert len(output.err) < 1000
    assert output.out == ""
    assert sorted(pathlib.Path().rglob("*")) == before
    return output.err


@pytest.mark.parametrize("setting", SETTINGS)
def test_invalid_settings_are_refused(setting, main, capsys):
    expected = SETTINGS[setting] or f"config.{setting.partition('=')[0]}"
    assert expected in refused(main, capsys, *SMALL, f"--config.{setting}")


@pytest.mark.parametrize(("arguments", "expected"), FLAGS)
def test_invalid_flags_and_files_are_refused(arguments, expected, main, capsys):
    assert expected in refused(main, capsys, *arguments)


@pytest.mark.parametrize(
    "workdir", ["", " ", ".", "..", "/", "../", "a\nb", "a\0b", "n" * 300, "a/" * 3000, "ftp://b/run"]
)
def test_invalid_directories_are_refused(workdir, main, capsys):
    assert "--workdir" in refused(main, capsys, QUICKSTART, f"--workdir={workdir}")


def test_unwritable_directories_are_refused(main, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for workdir in ("file", "file/run", "loop", "loop/run", "/proc/run", "/dev/null"):
        assert f"--workdir={workdir}" in refused(main, capsys, QUICKSTART, f"--workdir={workdir}")
    (tmp_path / "runs").write_text("")
    assert "runs/NAME=runs/quickstart: " in refused(main, capsys, QUICKSTART)
    (tmp_path / "locked").mkdir(mode=0o555)
    if not os.access(tmp_path / "locked", os.W_OK):  # root can write everywhere
        assert "cannot be written to" in refused(main, capsys, QUICKSTART, "--workdir=locked/run")


@pytest.mark.parametrize("platforms", ["nonsense", ""])
def test_a_missing_device_is_reported_in_one_line(platforms, tmp_path):
    """A device that JAX does not find is named, and not the checkpoint; and libtpu without a TPU warns of nothing."""
    command = [sys.executable, str(ROOT / "run.py"), QUICKSTART, "--config.init.checkpoint=absent.pth"]
    removed = ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"JAX_PLATFORMS": platforms} if platforms else {}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert ("unset JAX_PLATFORMS=nonsense" if platforms else "absent.pth") in result.stderr
    assert list(tmp_path.iterdir()) == []
