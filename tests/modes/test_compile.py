"""What the compilers of accelerators report about the steps of a recipe."""

import importlib.util
import json

import pytest

from danet_jax.modes import compile
from danet_jax.recipe import defaults, read_recipe
from danet_jax.training.topologies import Topology, find_topology
from tests.reference.program_text import collectives, traffic, widest_window
from tests.reference.refusal import refused

pytestmark = pytest.mark.usefixtures("narrow")

MEMORY = ("scratch_gib", "arguments_gib", "output_gib", "total_gib", "device_memory_gib")
FIELDS = {*MEMORY, "devices", "mesh", "fits", "flops", "bytes_accessed_gb", "compile_seconds", "versions"}


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
    file = tmp_path / "compile" / (f"{name}.json" if step == "train" else f"{name}-{step}.json")
    program = file.with_suffix(".hlo")
    return status, json.loads(file.read_text()), program.read_text() if program.exists() else ""


def test_compiling_the_predict_step_for_a_cpu(tmp_path, capsys):
    status, report, program = compiled(tmp_path, "cpu:2", step="predict", arguments=["32x64"])
    assert status == 0
    assert set(report) == FIELDS
    assert report["fits"]
    assert report["devices"] == 2
    assert report["bytes_accessed_gb"] > 0
    assert report["total_gib"] == pytest.approx(
        report["scratch_gib"] + report["arguments_gib"] + report["output_gib"], abs=0.003
    )
    assert program.startswith("HloModule")
    assert not (tmp_path / "config.json").exists()  # it is not a run
    assert "predict step, 16 x 32x64, on cpu:2" in capsys.readouterr().out  # eight small images per device


@pytest.mark.slow
def test_compiling_the_train_step_for_two_cpu_devices(tmp_path):
    status, report, program = compiled(tmp_path, "cpu:2")
    assert status == 0
    assert "all-reduce" in collectives(program)
    assert 0 < sum(collectives(program).values()) < traffic(program)
    assert report["flops"] > 1e6


@pytest.mark.slow
def test_compiling_the_predict_step_for_a_tpu(tmp_path):
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install libtpu")
    status, report, program = compiled(tmp_path, "v5e:1x1", step="predict", model__dtype="bfloat16")
    assert status == 0
    assert report["device_memory_gib"] == 16
    assert collectives(program) == {}
    assert report["flops"] > 1e6


needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason='needs NVIDIA\'s compilers: pip install "jax[cuda13]", or make test-cuda-compiler',
)


@pytest.mark.cuda_compiler
@needs_cuda
@pytest.mark.parametrize(("name", "space"), [("h100:1", 1), ("h100:2", 2)])
def test_no_convolution_window_on_h100s_is_wider_than_that_of_the_stem(tmp_path, name, space):
    # XLA's fusion of matrix products for Triton crashes on the few channels of a narrow network.
    options = {"model__backbone": "resnet50", "model__dtype": "bfloat16"}
    options |= {"dataset__crop_size": 128, "mesh__space": space}
    status, _, program = compiled(tmp_path, name, **options)
    assert status == 0
    assert 1 < widest_window(program) <= 7


@pytest.mark.cuda_compiler
@needs_cuda
def test_the_predict_step_on_h100s_shards_rows(tmp_path):
    options = {"model__backbone": "resnet50", "model__dtype": "bfloat16", "mesh__space": 2}
    status, report, program = compiled(tmp_path, "h100:2", step="predict", arguments=["64x64"], **options)
    assert status == 0
    assert report["flops"] > 1e6
    assert sum(collectives(program).values()) < 0.1 * traffic(program)


def test_remedies_are_printed_if_the_program_does_not_fit(tmp_path, monkeypatch, capsys):
    devices = find_topology("cpu:2").devices
    monkeypatch.setattr(compile, "find_topology", lambda name: Topology(devices, 2**10, {}))
    status, report, _ = compiled(tmp_path, "cpu:2", step="predict")
    assert status == 1
    assert not report["fits"]
    printed = capsys.readouterr().out
    assert "--config.model.dtype=bfloat16" in printed
    assert "--config.mesh.space=2" in printed


def test_required_memory_is_read_from_the_compilers_error():
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nUsed 25.50G of 15.75G hbm. Exceeded hbm capacity"
    )
    assert compile.required_memory(error, "v5e:1x1") == int(25.5 * 2**30)
    with refused("--topology", "v5e:1x1") as caught:
        compile.required_memory(RuntimeError("INTERNAL:\n boom"), "v5e:1x1")
    assert "INTERNAL: boom" in str(caught.value)


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("--topology", {"topology": "h9000:1"}),
        ("--topology", {}),
        ("--step", {"topology": "cpu:1", "step": "sleep"}),
        ("32", {"topology": "cpu:1", "arguments": ["32"]}),
        ("config.training.batch_size", {"topology": "cpu:8"}),
        ("mesh", {"topology": "cpu:4", "mesh__space": 3}),
    ],
)
def test_invalid_flags_and_options_are_refused(tmp_path, what, options):
    keywords = {key: options[key] for key in ("topology", "step") if key in options}
    changes = {key: value for key, value in options.items() if "__" in key}
    with refused() as caught:
        compile.run(recipe(**changes), tmp_path, options.get("arguments", []), **keywords)
    assert what in str(caught.value)
    assert not list(tmp_path.iterdir())
