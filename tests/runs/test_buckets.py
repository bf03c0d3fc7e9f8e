"""Runs in a bucket: an emulator on this machine stands for Google's storage."""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys

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
    *("--config.training.report=False", "--config.training.pictures=0", "--config.model.output_stride=32"),
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


@pytest.fixture
def bucket(monkeypatch):
    """The environment in which an emulator on this machine stands for Google's storage, and the emulator itself."""
    module = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    # It takes 5 connections at a time and refuses others, but TensorStore writes all arrays of a checkpoint at once.
    monkeypatch.setattr(module.server.HTTPServer, "request_queue_size", 1000)
    # It lists all objects in a file after each that is written, which takes most of its time.
    monkeypatch.setattr(module.Storage, "_write_config_to_file", lambda self: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    with module.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket") as emulator:
        yield os.environ | environment | {"PYTHONPATH": str(ROOT)}, emulator


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


COMMANDS = """
import json, sys
from danet_jax import load_checkpoint
from danet_jax.runs.files import as_path
from run import main

for command in json.loads(sys.argv[1]):
    assert main(["run.py", "--workdir=gs://bucket/run", *command]) == 0
names = ["metrics.jsonl", "evaluation.json", "lock.json", "checkpoints/4/digests.json", "export/model.safetensors"]
run = as_path("gs://bucket/run")
found = [name for name in names if (run / name).exists()]
print(json.dumps([found, (run / "metrics.jsonl").read_text(), load_checkpoint("gs://bucket/run").description]))
"""


@pytest.mark.slow
def test_a_run_in_a_bucket_is_trained_resumed_evaluated_and_used(tmp_path, bucket):
    environment, emulator = bucket

    def run(*commands):
        command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
        )

    trained = run([*FLAGS, "--config.training.steps=2"])
    assert trained.returncode == 0, trained.stderr[-2000:]
    longer = (*FLAGS, "--config.training.steps=4")
    result = run(longer, [*longer, "--mode=evaluate"], ["--mode=export", "--format=safetensors"])
    assert result.returncode == 0, result.stderr[-2000:]
    assert "from step 2 in gs://bucket/run" in result.stdout
    found, lines, description = json.loads(result.stdout.splitlines()[-1])
    assert found == [
        "metrics.jsonl",
        "evaluation.json",
        "checkpoints/4/digests.json",
        "export/model.safetensors",
    ]
    assert {json.loads(line)["step"] for line in lines.splitlines()} == {1, 2, 3, 4}
    assert description.startswith("a run, step ")
    emulator.stop()
    command = [sys.executable, ROOT / "run.py", "--workdir=gs://bucket/run", "--mode=export"]
    gone = subprocess.run(
        [*command, "--format=torch"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert gone.returncode == 1
    assert gone.stderr.startswith("run.py: gs://bucket/run: ")
    assert gone.stderr.count("\n") == 1
    assert not (tmp_path / "gs:").exists()
