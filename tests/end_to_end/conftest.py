"""`run.py` in this process."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def main(monkeypatch, tmp_path):
    """`run.py`'s main in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main(["run.py", *map(str, arguments)])

    return call
