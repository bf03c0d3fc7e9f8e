"""Two processes on this machine, joined by jax.distributed, give the confusion matrix of one."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def start(seed, address, process, processes):
    command = [sys.executable, "-m", "tests.evaluation.two_processes", str(seed), address, str(process)]
    return subprocess.Popen(
        [*command, str(processes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
    )


def test_two_processes_equal_one(rng):
    seed = int(rng.integers(2**31))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [start(seed, address, 0, 2), start(seed, address, 1, 2), start(seed, "", 0, 1)]
    try:
        outputs = [process.communicate(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors
    # Gloo tells of its connections on the standard output.
    first, second, alone = (
        "".join(line for line in output.splitlines(keepends=True) if "[Gloo]" not in line)
        for output, _ in outputs
    )
    assert alone.count(" 7 [[") == 2
    assert first == second == alone
