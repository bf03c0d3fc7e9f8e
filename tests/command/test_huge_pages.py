"""`run.py` asks for huge pages by starting Python again, once, and only when it is the program itself."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

RUN = pathlib.Path(__file__).parents[2] / "run.py"
SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
ASKED_FOR = "glibc.malloc.hugetlb=1"
# Imported whenever Python starts.
SITE = """
import os, pathlib, resource
with pathlib.Path(os.environ["STARTS"]).open("a") as file:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), file=file)
"""

needs_asking = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="huge pages need not be asked for here",
)


def starts(folder, *command, site=SITE, tunables=None):
    """Runs Python; returns the process number and GLIBC_TUNABLES of each of its starts."""
    (folder / "sitecustomize.py").write_text(site)
    removed = ("GLIBC_TUNABLES", "DANET_JAX_STARTED")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"STARTS": str(folder / "starts"), "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "--workdir" in output
    numbers, found = zip(
        *(line.split() for line in (folder / "starts").read_text().splitlines()), strict=True
    )
    assert {int(number) for number in numbers} == {process.pid}  # the process that a launcher waits for
    return list(found)


@needs_asking
@pytest.mark.parametrize("others", [None, "glibc.malloc.check=0"])
def test_huge_pages_are_requested_where_necessary(others, tmp_path):
    found = starts(tmp_path, "-u", RUN, "--help", tunables=others)
    assert found == [str(others), f"{others}:{ASKED_FOR}" if others else ASKED_FOR]


def test_an_existing_setting_is_kept(tmp_path):
    assert starts(tmp_path, RUN, "--help", tunables="glibc.malloc.hugetlb=0") == ["glibc.malloc.hugetlb=0"]


@pytest.mark.parametrize(
    "program", ["import runpy; runpy.run_path({run!r}, run_name='__main__')", "exec(open({run!r}).read())"]
)
def test_python_is_not_restarted_in_a_notebook_or_debugger(program, tmp_path):
    code = f"import sys; sys.argv[1:] = ['--help']; __file__ = {str(RUN)!r}; {program.format(run=str(RUN))}"
    assert starts(tmp_path, "-c", code) == ["None"]


@needs_asking
def test_python_is_restarted_only_once(tmp_path):
    """As glibc drops it from programs with capabilities."""
    found = starts(tmp_path, RUN, "--help", site=SITE + "os.environ.pop('GLIBC_TUNABLES', None)")
    assert found == ["None", ASKED_FOR]
