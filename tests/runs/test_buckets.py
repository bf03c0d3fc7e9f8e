"""Runs in a bucket, with an emulator of Google Cloud Storage."""

import importlib.util
import json
import os
import socket
import subprocess
import sys

import pytest

from danet_jax.runs.files import as_path, is_bucket, shared_folder
from tests.reference.commands import QUICKSTART, ROOT, TINY
from tests.reference.refusal import refused

FLAGS = (QUICKSTART, *TINY, "--config.training.evaluate_every=2", "--config.mesh.data=1")
FLAGS += ("--config.training.resume_anyway=True",)


@pytest.mark.parametrize("address", ["ftp://host/run", "gs://", "gs:///", "https://storage/run", "://x"])
def test_unknown_addresses_are_refused(address):
    with refused(what=address, allowed="a directory or gs://BUCKET/RUN"):
        as_path(address)


def test_s3_and_a_missing_gcsfs_are_refused(monkeypatch):
    assert is_bucket("s3://bucket/run")
    with refused(what="s3://bucket/run"):
        as_path("s3://bucket/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with refused(what="gs://bucket/run"):
        as_path("gs://bucket/run")


def test_shared_folder_of_runs(tmp_path):
    pytest.importorskip("gcsfs")
    runs = [as_path("gs://bucket/all/a"), as_path("gs://bucket/all/b/c")]
    assert os.fspath(shared_folder(runs)) == "gs://bucket/all"
    assert shared_folder([tmp_path / "a", tmp_path / "b"]) == tmp_path
    for other in (as_path("gs://other/a"), tmp_path):
        with refused(what=", ".join(map(os.fspath, [*runs, other]))):
            shared_folder([*runs, other])


@pytest.fixture
def bucket(monkeypatch):
    """The environment in which an emulator replaces Google Cloud Storage, and the emulator."""
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


def test_a_bucket_that_does_not_respond_is_reported_in_one_line():
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
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    assert result.stdout.startswith("gs://bucket/run: ")
    assert result.stdout.count("\n") == 1


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
def test_train_resume_evaluate_and_export_in_a_bucket(tmp_path, bucket):
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
