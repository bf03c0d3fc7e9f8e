"""The pages' scripts by themselves, in node."""

import os
import pathlib
import shutil
import subprocess

import pytest

import danet_jax

ASSETS = pathlib.Path(danet_jax.__file__).parent / "visual/assets"


def test_scripts_in_node():
    node = shutil.which("node") or pytest.skip("needs node")
    tests = sorted((pathlib.Path(__file__).parent / "scripts").glob("*.test.js"))
    result = subprocess.run(
        [node, "--test", *map(str, tests)],
        env=os.environ | {"ASSETS": str(ASSETS)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]


def test_no_script_closes_its_element():
    for script in ASSETS.glob("*.js"):
        assert "</script" not in script.read_text()
