"""The pages' scripts by themselves, in node."""

import os
import pathlib
import shutil
import subprocess

import pytest

import danet_jax

ASSETS = pathlib.Path(danet_jax.__file__).parent / "visual/assets"


@pytest.fixture
def node():
    return shutil.which("node") or pytest.skip("needs node")


def test_functions(node):
    tests = sorted((pathlib.Path(__file__).parent / "scripts").glob("*.test.js"))
    result = subprocess.run(
        [node, "--test", *map(str, tests)],
        env=os.environ | {"ASSETS": str(ASSETS)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]


@pytest.mark.parametrize("script", sorted(path.name for path in ASSETS.glob("*.js")))
def test_syntax(node, script):
    result = subprocess.run(
        [node, "--check", str(ASSETS / script)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "</script" not in (ASSETS / script).read_text()  # would end the page's script
