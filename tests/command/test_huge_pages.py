"""Huge pages for the arrays of a program that asks for them."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import os, resource, sys
from danet_jax.command.huge_pages import ask_for_huge_pages
ask_for_huge_pages()
import numpy as np
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 24)  # 128 MiB
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), faults)
"""


def started(tunables=None, program=PROGRAM, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | variables
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, "a b", ""],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    number, rest = output.split(" ", 1)
    assert int(number) == process.pid  # the process that a launcher waits for
    assert rest.startswith("['a b', ''] ")
    _, _, found, faults = rest.rsplit(" ", 3)
    return found, int(faults)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="huge pages need not be asked for here",
)
def test_asked_for_where_they_must_be():
    found, faults = started()
    assert found == "glibc.malloc.hugetlb=1"
    assert faults < 5_000  # of 32,768 small pages
    found, _ = started("glibc.malloc.check=0")
    assert found == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"


def test_a_setting_that_stands_is_left():
    found, _ = started("glibc.malloc.hugetlb=0")
    assert found == "glibc.malloc.hugetlb=0"


def test_a_program_inside_another_is_left_alone():
    """A notebook, a debugger or a profiler runs it, and would be started anew with the loss of all that it holds."""
    found, _ = started(program=f"exec({PROGRAM!r})")
    assert found == "None"


def test_a_setting_that_is_taken_away_is_not_asked_for_forever(tmp_path):
    """As glibc takes it from programs with capabilities."""
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ.pop('GLIBC_TUNABLES', None)")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found, _ = started(PYTHONPATH=path)
    assert found == "None"
