"""Backbones with few blocks, so that the networks of these tests are small."""

import pytest

from danet_jax.models import resnet
from tests.reference import torch_resnet

SHALLOW = {"resnet18": (1, 1, 2, 2), "resnet50": (1, 1, 2, 3), "resnet101": (1, 1, 4, 3)}
DEPTHS = {name: resnet.BLOCKS[name] for name in SHALLOW}


@pytest.fixture(scope="module", autouse=True)
def _shallow():
    with pytest.MonkeyPatch.context() as patch:
        for blocks in (resnet.BLOCKS, torch_resnet.BLOCKS):
            for name, counts in SHALLOW.items():
                patch.setitem(blocks, name, counts)
        yield


@pytest.fixture
def full_depth(monkeypatch):
    """Restores the published depths."""
    for blocks in (resnet.BLOCKS, torch_resnet.BLOCKS):
        for name, counts in DEPTHS.items():
            monkeypatch.setitem(blocks, name, counts)
