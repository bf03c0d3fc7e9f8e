"""The notebooks in examples/ run from the first to the last cell."""

import pathlib
import re

import pytest

from tests.conftest import SHARED

ROOT = pathlib.Path(__file__).parents[2]
WEIGHTS = SHARED / "weights/resnet18_imagenet1k_v1.safetensors"


def read(name):
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient (the test extra)")
    return nbformat.read(ROOT / f"examples/{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", ["look", "your_own_data"])
def test_notebooks_are_short_and_committed_without_outputs(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert sum(len(cell.source.splitlines()) for cell in cells) < 100
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["look", "your_own_data"])
@pytest.mark.filterwarnings("default")  # those of Jupyter are its own
def test_notebooks_run(name, tmp_path, monkeypatch):
    """Trains for two steps instead of 120, from the weights of the shared folder if there is one."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient (the test extra)")
    notebook = read(name)
    for cell in notebook.cells:
        cell.source = cell.source.replace("STEPS = 120", "STEPS = 2").replace(
            "torchvision/resnet18", str(WEIGHTS)
        )
    for part in ("run.py", "configs"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / "examples").mkdir()
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path / "examples"}}
    )
    client.execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    if name == "look":
        assert any("<iframe" in output.get("data", {}).get("text/html", "") for output in outputs)
        assert text.count("attends most to") == 2
    else:
        assert float(re.search(r"([\d.]+)% of the labels", text)[1]) > 99
        assert re.search(r"mIoU [\d.]+%", text)
        assert ("Training starts from" in text) == WEIGHTS.exists()
