"""The code of docs/flax.md and of the docstrings of what it uses, run as it is printed."""

import doctest
import importlib
import pathlib
import re

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from tests.reference import torch_resnet

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "flax.md"


def blocks(section):
    """The blocks of code under a heading."""
    [text] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M)
    return re.findall(r"```python\n(.*?)```", text, re.S)


def run(*sections):
    """Runs the code of sections that build on each other, and returns the names that it leaves."""
    names = {}
    for section in sections:
        for code in blocks(section):
            exec(compile(code, f"docs/flax.md: {section}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The page's batches need not divide over the eight devices of the tests."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def imagenet(monkeypatch, tmp_path):
    """The classifier that the page starts from, with random weights, where it would be after it was downloaded."""
    network = torch_resnet.ResNet("resnet18", imagenet_classifier=True)
    torch.save(network.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path))


def test_the_attention_modules_and_derivatives():
    names = run("The attention modules in a network of your own", "Derivatives")
    assert names["logits"].shape == (2, 17, 24, 10)
    assert set(names["variables"]) == {"params"}
    assert names["curvature"].shape == (1, 5, 4, 1, 5, 4)


def test_fine_tuning_takes_at_most_30_lines():
    names = run("Fine-tuning")
    assert sum(len(code.strip().splitlines()) for code in blocks("Fine-tuning")) <= 30
    assert int(names["state"].step) == 4
    assert names["predicted"].shape == (64, 64)


def test_a_backbone_of_your_own():
    names = run("The attention modules in a network of your own", "Fine-tuning", "A backbone of your own")
    assert names["predicted"].shape == (64, 64)
    assert "backbone" in names["state"].params


def test_nnx():
    names = run("The attention modules in a network of your own", "Fine-tuning")
    for code in blocks("NNX"):
        before, step = code.split("for _ in range(2):")
        exec(before, names)
        initial = {
            kind: jax.device_get(nnx.state(names["network"], kind)) for kind in (nnx.Param, nnx.BatchStat)
        }
        exec("for _ in range(2):" + step, names)
    assert names["logits"].shape == (1, 2, 2, 2)
    assert np.isfinite(names["value"])
    for kind, old in initial.items():
        new = jax.device_get(nnx.state(names["network"], kind))
        assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)), (
            kind
        )


@pytest.mark.parametrize(
    "module",
    ["models.attention", "ops.attention", "training.losses", "training.optimizer", "training.state"],
)
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"danet_jax.{module}"))
    assert result.attempted
    assert not result.failed
