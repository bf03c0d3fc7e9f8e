"""The benchmark of table 1: its table from numbers, and the whole of it on tiny scenes."""

import json

import pytest

from benchmarks import table1
from tests.reference.commands import TINY


def test_mean_and_spread_over_the_seeds():
    run = {"costs": {"alpha 0": 0.03, "beta 0": 0.0, "alpha and beta 0": 0.04}}
    rows = {
        "fcn": {"0": {"miou": 0.5, "costs": {}}},
        "danet": {"0": run | {"miou": 0.6}, "1": run | {"miou": 0.62}},
    }
    lines = table1.markdown({"data": "far_scenes", "rows": rows}).splitlines()
    assert lines[2] == "| Dilated FCN | 50.00 | 1 | - | - | - |"
    assert lines[3] == "| + both | 61.00 ± 1.41 | 2 | 3.00 ± 0.00 | 0.00 ± 0.00 | 4.00 ± 0.00 |"


@pytest.mark.slow
def test_the_table_of_tiny_scenes_is_made_once_and_kept(tmp_path, capfd, monkeypatch):
    flags = [
        *TINY,
        "--config.mesh.data=1",
        "--config.training.steps=1",
        f"--config.dataset.data_dir={tmp_path / 'data'}",
    ]
    arguments = ["--rows", "fcn", "danet", "--seeds", "1", f"--workdir={tmp_path / 'runs'}", *flags]
    table1.main(arguments)
    table = json.loads((tmp_path / "runs/far_scenes.json").read_text())
    assert set(table["rows"]) == {"fcn", "danet"}
    assert set(table["rows"]["danet"]["0"]["costs"]) == {"alpha 0", "beta 0", "alpha and beta 0"}
    printed = capfd.readouterr().out
    assert "| + both | " in printed

    monkeypatch.setattr(table1, "one_run", lambda *_: pytest.fail("what is there must not be trained again"))
    table1.main(arguments)
    assert capfd.readouterr().out == printed
    with pytest.raises(SystemExit):
        table1.main([*arguments, "--config.training.learning_rate=1"])
