"""Runs in a bucket: an emulator on loopback stands for Google's, and goes away."""

import contextlib
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from danet_jax.runs.files import as_path, is_bucket, shared_folder
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = (
    f"--config={ROOT / 'configs/quickstart.py'}",
    *("--config.dataset.options.height=32", "--config.dataset.options.width=48"),
    *("--config.dataset.options.train=8", "--config.dataset.options.val=2", "--config.dataset.workers=0"),
    *("--config.dataset.base_size=32", "--config.dataset.crop_size=32", "--config.training.batch_size=2"),
    *("--config.training.evaluate_every=2", "--config.mesh.data=1"),
    "--config.training.resume_anyway=True",
)


@pytest.mark.parametrize("place", ["ftp://host/run", "gs://", "gs:///", "https://storage/run", "://x"])
def test_places_that_do_not_exist_are_refused(place):
    with refused(what=place, allowed="a directory or gs://BUCKET/RUN"):
        as_path(place)


def test_what_is_not_supported_or_not_installed_is_refused(monkeypatch):
    assert is_bucket("s3://bucket/run")
    with refused(what="s3://bucket/run"):
        as_path("s3://bucket/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with refused(what="gs://bucket/run"):
        as_path("gs://bucket/run")


def test_the_folder_that_runs_share(tmp_path):
    pytest.importorskip("gcsfs")
    runs = [as_path("gs://bucket/all/a"), as_path("gs://bucket/all/b/c")]
    assert os.fspath(shared_folder(runs)) == "gs://bucket/all"
    assert shared_folder([tmp_path / "a", tmp_path / "b"]) == tmp_path
    for other in (as_path("gs://other/a"), tmp_path):
        with refused(what=", ".join(map(os.fspath, [*runs, other]))):
            shared_folder([*runs, other])


@contextlib.contextmanager
def emulator(port, folder):
    """A bucket called `bucket`, ended with the test."""
    program = pathlib.Path(sys.executable).with_name("gcp-storage-emulator")
    command = [
        program,
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        "--in-memory",
        "--default-bucket=bucket",
    ]
    with (folder / "emulator.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.2)
            yield
        finally:
            process.kill()
            process.wait()


def test_a_bucket_that_does_not_answer_is_one_line():
    pytest.importorskip("gcsfs")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        environment = os.environ | {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        code = (
            "import asyncio; from danet_jax.errors import InputError; from danet_jax.runs import files\n"
            "files.LONGEST_SILENCE, sleep = 0.2, asyncio.sleep\n"
            "asyncio.sleep = lambda seconds: sleep(seconds / 100)\n"  # between one request and the next
            "try: files.refuse_unreachable(files.as_path('gs://bucket/run'))\n"
            "except InputError as error: print(error)"
        )
        command = [sys.executable, "-c", code]
        said = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    assert said.stdout.startswith("gs://bucket/run: ")
    assert said.stdout.count("\n") == 1


@pytest.mark.slow
def test_a_run_in_a_bucket_is_trained_resumed_evaluated_and_used(tmp_path):
    if importlib.util.find_spec("gcp_storage_emulator") is None:
        pytest.skip("the emulator of a bucket is not installed: pip install gcp-storage-emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}

    def run(*flags):
        command = [sys.executable, str(ROOT / "run.py"), "--workdir=gs://bucket/run", *flags]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
        )

    with emulator(port, tmp_path):
        for steps in (2, 4):
            for _ in range(5):  # the emulator answers some writes that come at once with what is no answer
                trained = run(*FLAGS, f"--config.training.steps={steps}")
                if trained.returncode == 0:
                    break
            assert trained.returncode == 0, trained.stderr[-2000:]
        assert "from step 2 in gs://bucket/run" in trained.stdout
        assert run(*FLAGS, "--config.training.steps=4", "--mode=evaluate").returncode == 0
        exported = run("--mode=export", "--format=safetensors")
        assert exported.returncode == 0, exported.stderr
        code = (
            "import sys; from danet_jax.runs.files import as_path; run = as_path('gs://bucket/run');"
            "names = ['metrics.jsonl', 'evaluation.json', 'lock.json', 'checkpoints/4/digests.json'];"
            "print([name for name in names if (run / name).exists()]);"
            "print((run / 'metrics.jsonl').read_text())"
        )
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        names, *lines = found.stdout.strip().splitlines()
        assert names == "['metrics.jsonl', 'evaluation.json', 'checkpoints/4/digests.json']"
        assert {json.loads(line)["step"] for line in lines} == {1, 2, 3, 4}
    gone = run("--mode=export", "--format=safetensors")
    assert gone.returncode == 1
    assert gone.stderr.startswith("run.py: gs://bucket/run: ")
    assert gone.stderr.count("\n") == 1
    assert not (tmp_path / "gs:").exists()
