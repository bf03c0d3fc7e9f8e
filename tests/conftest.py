"""What all tests share: eight fake CPU devices, strict promotion, random inputs, and real data if there are any."""

import os

# Eight devices, so that sharding is tested on any machine. They must be set before JAX is imported.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# Halves the time of compiling. `make test-wheel` compiles with all optimisations, as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# The cache is neither filled nor read: what a test compiles is what it tests.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import pathlib
import secrets

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(os.environ.get("DANET_SHARED", pathlib.Path(__file__).parents[2] / "shared"))


@pytest.fixture
def rng(request):
    """A numpy generator with another seed in every run; DANET_TEST_SEED repeats a run."""
    seed = int(os.environ.get("DANET_TEST_SEED", secrets.randbelow(2**31)))
    print(f"DANET_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def few_blocks():
    """Backbones with few residual blocks, here and in the PyTorch reference, which compile much faster."""
    from danet_jax.models import resnet
    from tests.reference import torch_resnet

    few = {"resnet18": (1, 1, 1, 2), "resnet34": (1, 1, 2, 1), "resnet50": (1, 1, 2, 2)}
    with pytest.MonkeyPatch.context() as patch:
        for blocks in (resnet.BLOCKS, torch_resnet.BLOCKS):
            for backbone, counts in few.items():
                patch.setitem(blocks, backbone, counts)
        yield


def _shared(name: str) -> pathlib.Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name}, looked for in {SHARED} (set DANET_SHARED)")
    return path


@pytest.fixture
def camvid():
    """The folder of CamVid's street scenes."""
    return _shared("data/camvid")


@pytest.fixture
def imagenet_weights():
    """The folder of real ImageNet ResNet-18/34 backbones."""
    return _shared("weights")


@pytest.fixture
def photos():
    """A folder of ordinary photos."""
    return _shared("photos")


@pytest.fixture
def ade20k_sample():
    """The folder of three real ADE20K images with their annotations."""
    return _shared("data/ade20k_sample")


@pytest.fixture
def published_labels():
    """The folder of the publishers' lists of classes."""
    return _shared("labels")
