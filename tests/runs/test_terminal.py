"""What is shown while something takes long, on terminals of several widths and in log files."""

import re

import pytest

from danet_jax.runs.terminal import shown, watched
from tests.reference.terminal import run_in_terminal

PROGRAM = """
import time
import pathlib
import rich.table
from danet_jax.runs.log import TrainingLog
from danet_jax.runs.terminal import print_table, shown, watched
values = {"loss": 0.1234, "learning_rate": 0.00298, "alpha": 0.1, "beta": 0.2, "images_per_second": 12.3}
with shown("working", logged=False):
    time.sleep(0.3)
    with TrainingLog(pathlib.Path("run"), steps=100_000, start=99_000) as log:
        for step in (99_001, 99_002):
            time.sleep(0.3)
            log.advance(step)
            log.write(step, values)
        print("a line", "x" * 200)
        table = rich.table.Table("class", "IoU", box=None)
        table.add_row("road", "12.3")
        print_table(table)
        time.sleep(0.3)
        with shown("compiling the training step"):
            time.sleep(0.3)
        for _ in watched(range(3), "evaluating val", 3):
            time.sleep(0.2)
"""


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_live_lines_in_a_terminal(columns, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    status, [*seen, last] = run_in_terminal(columns, "program.py", cwd=tmp_path)
    assert status == 0
    printed = [line.split() for line in last if line]
    assert printed == [
        ["a", "line", "x" * 200],
        ["class", "IoU"],
        ["road", "12.3"],
    ]  # long lines are not wrapped
    lines = {line.rstrip() for screen in seen for line in screen} - set(last)
    assert max(map(len, lines)) <= columns
    bars = [
        line for line in lines if re.search(r"step 99002/100000 .*━.* \d+:\d\d:\d\d left .*loss=0.1234", line)
    ]
    assert bars
    assert any("images_per_second=12.3" in line for line in bars) == (columns == 160)
    for expected in (
        r"working +0:00:00",
        r"compiling the training step +0:00:00",
        r"evaluating val \d/3 images .*━",
    ):
        moving = {line[0] for line in lines if re.search(expected, line)}
        assert len(moving) > 1, expected
    assert not [
        screen for screen in seen if any("working" in x for x in screen) and any("step" in x for x in screen)
    ]


def test_a_log_file_gets_one_line_for_each_phase(capfd):
    with shown("working", logged=False), shown("compiling"):
        assert list(watched("abc", "evaluating val", 3)) == ["a", "b", "c"]
        assert list(watched("ab", "not the first host", 2, enabled=False)) == ["a", "b"]
    assert capfd.readouterr().err == "compiling\nevaluating val, 3 images\n"
