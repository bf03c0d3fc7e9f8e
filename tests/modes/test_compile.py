import importlib.util
import json

import pytest

from danet_jax.errors import InputError
from danet_jax.modes import compile
from danet_jax.recipe import defaults, read_recipe
from danet_jax.training.topologies import Topology, find_topology

FIELDS = {
    *("scratch_gib", "arguments_gib", "output_gib", "total_gib", "fits", "device_memory_gib", "flops"),
    *(
        "traffic_gb",
        "collective_gb",
        "collectives",
        "widest_convolution_window",
        "compile_seconds",
        "versions",
    ),
}


def recipe(**options):
    """A small network on scenes, with options such as `training__batch_size=4`."""
    config = defaults()
    config.model.backbone = "resnet18"
    config.dataset.name = "scenes"
    config.dataset.crop_size = 32
    config.training.batch_size = 2
    for name, value in options.items():
        group, key = name.split("__")
        config[group][key] = value
    return read_recipe(config.to_dict())


def compiled(tmp_path, name, **options):
    arguments = options.pop("arguments", [])
    step = options.pop("step", "train")
    status = compile.run(recipe(**options), tmp_path, arguments, topology=name, step=step)
    file = f"{name}.json" if step == "train" else f"{name}-{step}.json"
    return status, json.loads((tmp_path / "compile" / file).read_text())


def test_a_prediction_on_this_cpu(tmp_path, capsys):
    status, report = compiled(tmp_path, "cpu:2", step="predict", arguments=["32x64"])
    assert status == 0
    assert set(report) >= FIELDS
    assert report["fits"]
    assert report["devices"] == 2
    assert report["total_gib"] == pytest.approx(
        report["scratch_gib"] + report["arguments_gib"] + report["output_gib"], abs=0.003
    )
    assert (tmp_path / "compile/cpu:2-predict.hlo").read_text().startswith("HloModule")
    assert not (tmp_path / "config.json").exists()  # it is not a run
    printed = capsys.readouterr().out
    assert "predict step, 16 x 32x64, on cpu:2" in printed  # eight small ones a device
    assert "fits, with" in printed


@pytest.mark.slow
def test_a_training_step_on_this_cpu_divided_over_devices(tmp_path):
    status, report = compiled(tmp_path, "cpu:2")
    assert status == 0
    assert "all-reduce" in report["collectives"]
    assert 0 < report["collective_gb"] < report["traffic_gb"]
    assert report["flops"] > 1e8


@pytest.mark.slow
def test_a_prediction_on_a_tpu_that_is_not_here(tmp_path):
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install libtpu")
    status, report = compiled(tmp_path, "v5e:1x1", step="predict", model__dtype="bfloat16")
    assert status == 0
    assert report["device_memory_gib"] == 16
    assert report["collectives"] == {}
    assert report["flops"] > 1e8


needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason='needs NVIDIA\'s compilers: pip install "jax[cuda13]", or make test-cuda-compiler',
)


@pytest.mark.cuda_compiler
@needs_cuda
@pytest.mark.parametrize(("name", "space"), [("h100:1", 1), ("h100:2", 2)])
def test_no_window_of_a_training_step_on_h100s_is_wider_than_the_stems(tmp_path, name, space):
    options = {"dataset__crop_size": 128, "model__dtype": "bfloat16", "mesh__space": space}
    status, report = compiled(tmp_path, name, **options)
    assert status == 0
    assert report["widest_convolution_window"] <= 7


@pytest.mark.cuda_compiler
@needs_cuda
def test_a_prediction_on_h100s_gives_each_its_own_rows(tmp_path):
    status, report = compiled(
        tmp_path, "h100:2", step="predict", mesh__space=2, model__dtype="bfloat16", arguments=["64x64"]
    )
    assert status == 0
    assert report["flops"] > 1e8
    assert report["collective_gb"] < 0.1 * report["traffic_gb"]


def test_what_does_not_fit_is_said_with_what_to_change(tmp_path, monkeypatch, capsys):
    devices = find_topology("cpu:2").devices
    monkeypatch.setattr(compile, "find_topology", lambda name: Topology(devices, 2**20, {}))
    status, report = compiled(tmp_path, "cpu:2", step="predict")
    assert status == 1
    assert not report["fits"]
    printed = capsys.readouterr().out
    assert "does not fit: 0." in printed
    assert "--config.model.dtype=bfloat16" in printed
    assert "--config.mesh.space=2" in printed


def test_a_compiler_that_gives_up_for_lack_of_memory_says_how_much_it_wanted():
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nUsed 25.50G of 15.75G hbm. Exceeded hbm capacity"
    )
    assert compile._beyond_memory(error) == int(25.5 * 2**30)
    with pytest.raises(InputError, match="the compiler refuses the program: INTERNAL: boom"):
        compile._beyond_memory(RuntimeError("INTERNAL:\n boom"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "h9000:1"}, "--topology=h9000:1 does not exist; there are"),
        ({}, "needs --topology=NAME, for example"),
        ({"topology": "cpu:1", "step": "sleep"}, "--step=sleep does not exist; there are: train, predict"),
        (
            {"topology": "cpu:1", "arguments": ["32"]},
            "takes one argument, a size of images such as 1024x2048",
        ),
        ({"topology": "cpu:8"}, "config.training.batch_size=2"),
        ({"topology": "cpu:4", "mesh__space": 3}, "do not fit 4 devices"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, options, message):
    keywords = {key: options.pop(key) for key in ("topology", "step") if key in options}
    arguments = options.pop("arguments", [])
    with pytest.raises(InputError, match=message):
        compile.run(recipe(**options), tmp_path, arguments, **keywords)
    assert not list(tmp_path.iterdir())
