"""Weights files are read without running code in them, and other files are refused."""

import argparse
import builtins
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

from danet_jax.weights.files import read_weights
from tests.reference.refusal import refused


class Hostile:
    """A pickle of it creates the file `path` when it is loaded without precautions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def refusal(path) -> str:
    with refused(path) as caught:
        read_weights(path)
    return str(caught.value)


@pytest.fixture
def tensors(rng):
    return {
        "weight": torch.from_numpy(rng.normal(size=(3, 2)).astype(np.float32)),
        "half": torch.from_numpy(rng.normal(size=4).astype(np.float16)),
        "brain": torch.from_numpy(rng.normal(size=4).astype(np.float32)).bfloat16(),
        "num_batches_tracked": torch.tensor(7),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
@pytest.mark.parametrize("name", ["model.pth", "model.pth.tar", "weights", "model.safetensors"])
def test_pytorch_files_of_any_version_and_name(tmp_path, tensors, zipped, name):
    path = tmp_path / name
    content = {"epoch": 240, "state_dict": tensors, "best_pred": 0.79, "optimizer": {"state": {0: tensors}}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    file = read_weights(path)
    assert file.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(file.tensors[key], tensor.float().numpy() if "num" not in key else 7)
    assert file.metadata["epoch"] == 240
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert read_weights(path).tensors.keys() == tensors.keys()


def test_other_objects_in_the_file_are_ignored(tmp_path, tensors, monkeypatch):
    """As a run of mmsegmentation 1.x saves it, read where mmengine is not installed."""
    module = type(sys)("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.arange(5.0)
            self._count_history = np.ones(5)

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    path = tmp_path / "iter_80000.pth"
    with monkeypatch.context() as installed:
        for name in ("mmengine", "mmengine.logging"):
            installed.setitem(sys.modules, name, type(sys)(name))
        installed.setitem(sys.modules, module.__name__, module)
        meta = {"dataset_meta": {"classes": ("road", "car"), "palette": [[1, 2, 3], [4, 5, 6]]}}
        content = {
            "meta": {**meta, "time": np.float64(1.5)},
            "state_dict": tensors,
            "message_hub": {"log_scalars": {"loss": HistoryBuffer()}},
            "args": argparse.Namespace(lr=0.01),
        }
        torch.save(content, path)
    file = read_weights(path)
    assert file.tensors.keys() == tensors.keys()
    assert file.metadata["meta"]["dataset_meta"]["classes"] == ["road", "car"]
    assert file.metadata["meta"]["time"] is None


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
def test_code_in_a_pickle_is_not_run(tmp_path, tensors, zipped):
    trace, path = tmp_path / "trace", tmp_path / "hostile.pth"
    torch.save({"state_dict": tensors, "x": Hostile(trace)}, path, _use_new_zipfile_serialization=zipped)
    refusal(path)
    for protocol in (2, None):
        path.write_bytes(pickle.dumps(Hostile(trace), protocol))
        refusal(path)
    assert not trace.exists()
    # Without precautions, it does run.
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "module.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_truncated_pytorch_files(tmp_path, rng, zipped, kept):
    path = tmp_path / "model.pth"
    weights = {f"w{i}": torch.from_numpy(rng.normal(size=500).astype(np.float32)) for i in range(5)}
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refusal(path)


def test_a_flipped_bit_in_a_tensor(tmp_path, rng):
    file = tmp_path / "weights.pth"
    weights = rng.normal(size=1000).astype(np.float32)
    torch.save({"w": torch.from_numpy(weights)}, file)
    content = bytearray(file.read_bytes())
    first = content.index(weights.tobytes())
    content[first + rng.integers(weights.nbytes)] ^= 1 << rng.integers(8)
    file.write_bytes(content)
    with refused(what=file):
        read_weights(file)


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_weights(tmp_path / "weights.pth").tensors["w"].tolist() == [1, 1, 1]


def test_other_files_are_refused(tmp_path):
    for name, content in {
        "empty": b"",
        "text": b"hello, this is text and no weights",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "page": b"<!DOCTYPE html><html>404</html>",
        "zip": b"PK\x03\x04" + bytes(40),
        "two bytes": b"\x80\x02",
    }.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    torch.save({"epoch": 3}, tmp_path / "no_tensors")
    torch.save({}, tmp_path / "nothing")
    torch.save([torch.ones(2)], tmp_path / "list")
    torch.save({"w": torch.ones(2).to_sparse()}, tmp_path / "sparse")
    for name in ("nothing.pth", "pipe", "no_tensors", "nothing", "list", "sparse"):
        refusal(tmp_path / name)
    assert "'epoch'" in refusal(tmp_path / "no_tensors")
    assert "'w'" in refusal(tmp_path / "sparse")


def test_safetensors(tmp_path, tensors):
    path = tmp_path / "model"  # The format is recognised by the content.
    safetensors.torch.save_file(tensors, path, {"note": "text"})
    file = read_weights(path)
    assert file.metadata == {"note": "text"}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(file.tensors[name].astype(np.float32), tensor.float().numpy())
    content = path.read_bytes()
    for kept in (20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        refusal(path)
    path.write_bytes(b"\xff" * 8 + content[8:])
    refusal(path)


def test_without_torch_only_safetensors_are_read(tmp_path, tensors, monkeypatch):
    torch.save(tensors, tmp_path / "model.pth")
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    real_import = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch" or name.startswith("torch."):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert "pip install torch" in refusal(tmp_path / "model.pth")
    assert read_weights(tmp_path / "model.safetensors").tensors.keys() == {"w"}
