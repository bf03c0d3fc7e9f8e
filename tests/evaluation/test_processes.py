"""Two processes on this machine, joined by jax.distributed, give the confusion matrix of one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

from tests.evaluation.two_processes import evaluate

ROOT = pathlib.Path(__file__).parents[2]


def test_two_processes_equal_one(rng, tmp_path):
    seed = int(rng.integers(2**31))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.evaluation.two_processes",
                f"{seed}",
                address,
                f"{process}",
                tmp_path / f"{process}",
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for process in range(2)
    ]
    try:
        alone = evaluate(seed)
        errors = [process.communicate(timeout=500)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"{process}").read_text()) for process in range(2))
    assert [images for images, _ in alone.values()] == [7, 7]
    assert first == second == alone
