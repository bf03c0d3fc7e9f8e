"""The code of docs/flax.md, run as it is printed."""

import pathlib
import re

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from danet_jax.models import resnet
from tests.reference import torch_resnet

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "flax.md"


def blocks(section):
    """The blocks of code under a heading."""
    [text] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M)
    return re.findall(r"```python\n(.*?)```", text, re.S)


SECTIONS = [
    "The attention modules in a network of your own",
    "Fine-tuning",
    "A backbone of your own",
    "NNX",
    "Derivatives",
]


@pytest.fixture(scope="module")
def page(few_blocks, tmp_path_factory):
    """The names that each section leaves. The page runs once, from top to bottom, as a reader would run it."""
    cache = tmp_path_factory.mktemp("cache")
    names, after = {}, {}
    devices = jax.devices()[:1]  # the page's batches need not divide over the eight devices of the tests
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        for each in (resnet.BLOCKS, torch_resnet.BLOCKS):
            patch.setitem(each, "resnet18", (1, 1, 1, 1))  # compiles in half the time
        network = torch_resnet.ResNet("resnet18", imagenet_classifier=True)
        # The classifier that the page starts from, with random weights, where it would be after it was downloaded.
        torch.save(network.state_dict(), cache / "resnet18-f37072fd.pth")
        patch.setenv("DANET_JAX_CACHE", str(cache))
        patch.setattr(jax, "devices", lambda *_: devices)
        for section in SECTIONS:
            for code in blocks(section):
                exec(compile(code, f"docs/flax.md: {section}", "exec"), names)
            after[section] = dict(names)
    return after


def test_every_section_with_code_is_run():
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), re.M)
    assert [heading for heading in headings if blocks(heading)] == SECTIONS


def test_the_attention_modules(page):
    names = page["The attention modules in a network of your own"]
    assert names["logits"].shape == (2, 17, 24, 10)
    assert set(names["variables"]) == {"params"}


def test_fine_tuning_takes_at_most_30_lines(page):
    names = page["Fine-tuning"]
    assert sum(len(code.strip().splitlines()) for code in blocks("Fine-tuning")) <= 30
    assert int(names["state"].step) == 4
    assert names["predicted"].shape == (64, 64)


def test_a_backbone_of_your_own(page):
    names = page["A backbone of your own"]
    assert names["predicted"].shape == (64, 64)
    assert int(names["state"].step) == 1


def test_nnx(page):
    """Two steps of the optimizer, which changed parameters and batch statistics alike."""
    names = page["NNX"]
    assert names["logits"].shape == (1, 2, 2, 2)
    assert np.isfinite(names["value"])
    assert int(names["nnx_optimizer"].step[...]) == 2
    fresh = names["Segmentation"](nnx.Rngs(params=0, dropout=1))
    for kind in (nnx.Param, nnx.BatchStat):
        old, new = (jax.tree.leaves(jax.device_get(nnx.state(x, kind))) for x in (fresh, names["network"]))
        assert any(np.any(a != b) for a, b in zip(old, new, strict=True)), kind


def test_derivatives(page):
    assert page["Derivatives"]["curvature"].shape == (1, 5, 4, 1, 5, 4)
