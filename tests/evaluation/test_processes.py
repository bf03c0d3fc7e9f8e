"""Two processes on this machine, joined by jax.distributed, give the confusion matrix of one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.evaluation.two_processes", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
    )


def test_two_processes_equal_one(rng, tmp_path):
    seed = int(rng.integers(2**31))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    files = [tmp_path / name for name in ("first.json", "second.json", "alone.json")]
    started = [
        start(seed, address, 0, 2, files[0]),
        start(seed, address, 1, 2, files[1]),
        start(seed, "", 0, 1, files[2]),
    ]
    try:
        outputs = [process.communicate(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors
    first, second, alone = (json.loads(file.read_text()) for file in files)
    assert [images for images, _ in alone.values()] == [7, 7]
    assert first == second == alone
