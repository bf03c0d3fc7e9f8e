"""A program whose output nobody reads any more."""

import os
import pathlib
import subprocess
import sys

import pytest

# It waits for a line before it prints the second time.
PROGRAM = """
import pathlib, sys
from danet_jax.command.output import fault_tolerant
sys.stdout, sys.stderr = fault_tolerant(sys.stdout), fault_tolerant(sys.stderr)
print("one", sys.argv[1], flush=True)
input()
for number in range(3):
    print("two", number, "x" * 10_000)
    print("three", file=sys.stderr)
pathlib.Path("done").write_text("")
"""


def started(folder, *, stdout, stderr=subprocess.PIPE, word="", **variables):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, word],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **variables},
    )


def test_a_closed_pipe_does_not_end_the_program(tmp_path):
    with started(tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"one \n"
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        lines = process.stderr.read().decode().splitlines()
    assert process.returncode == 0
    assert (tmp_path / "done").exists()
    assert lines.count("three") == 3
    lines = [line for line in lines if line != "three"]
    assert lines == ["run.py: standard output: Broken pipe; continuing without it"]


def test_a_closed_terminal_does_not_end_the_program(tmp_path):
    terminal, stream = os.openpty()
    with started(tmp_path, stdout=stream, stderr=stream) as process:
        os.close(stream)
        read = b""
        while not read.startswith(b"one "):  # a terminal gives what has come so far
            read += os.read(terminal, 4)
        os.close(terminal)
        process.stdin.write(b"\n")
        process.stdin.close()
    assert process.returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_reported(tmp_path):
    with open("/dev/full", "wb") as full, started(tmp_path, stdout=full) as process:
        _, error = process.communicate(b"\n")
    assert process.returncode == 0
    assert error.splitlines()[0] == b"run.py: standard output: No space left on device; continuing without it"


def test_characters_missing_from_the_encoding_are_escaped(tmp_path):
    word = os.fsdecode("allée".encode() + b"\xff")
    with started(tmp_path, stdout=subprocess.PIPE, word=word, PYTHONIOENCODING="ascii") as process:
        output, error = process.communicate(b"\n")
    assert process.returncode == 0, error
    assert output.splitlines()[0] == rb"one all\xe9e\udcff"
