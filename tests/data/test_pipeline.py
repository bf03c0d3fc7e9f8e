"""Tests that the stream of batches is complete, reproducible, resumable and independent of the number of hosts."""

import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from grain.multiprocessing import SharedMemoryArray
from jax.sharding import Mesh

from danet_jax.data.decode import encode_label
from danet_jax.data.pipeline import evaluation_examples, to_device, training_batches
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]


def plain_source(count, labels=True):
    """Returns examples that can be recognised by their colour under any augmentation."""
    return [
        {
            "name": f"n{index}",
            "image": encode_label(np.full((20 + index % 3, 30, 3), 10 + index, np.uint8)),
            "label": encode_label(np.full((20 + index % 3, 30), index, np.uint8)) if labels else None,
        }
        for index in range(count)
    ]


@pytest.fixture
def textured_source(rng):
    return [
        {
            "name": f"n{index}",
            "image": encode_label(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8)),
            "label": encode_label(rng.integers(0, 9, (24, 36), dtype=np.uint8)),
        }
        for index in range(7)
    ]


def stream(source, *, seed=1, batch_size=1, crop_size=8, **options):
    return training_batches(
        source, batch_size=batch_size, base_size=16, crop_size=crop_size, seed=seed, **options
    )


def take(batches, count):
    return [next(batches) for _ in range(count)]


def identities(batches, count):
    """Returns the index of the example in each of `count` batches of one, checking that image and label agree."""
    found = []
    for batch in take(batches, count):
        assert batch["image"][0, 0, 0, 0] - 10 == batch["label"][0, 0, 0]
        found.append(int(batch["label"][0, 0, 0]))
    return found


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_every_epoch_has_every_example_once_in_another_order(rng):
    count = int(rng.integers(5, 20))
    found = identities(stream(plain_source(count), seed=int(rng.integers(1000))), 4 * count)
    epochs = [found[start : start + count] for start in range(0, 4 * count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_have_the_size_of_the_crop_and_need_no_full_epoch(textured_source):
    for batch in take(stream(textured_source, batch_size=10, crop_size=13), 3):  # There are 7 examples.
        assert batch["image"].shape == (10, 13, 13, 3)
        assert batch["label"].shape == (10, 13, 13)
        assert batch["image"].dtype == batch["label"].dtype == np.uint8
    padded = next(stream(textured_source, crop_size=60))
    assert (padded["label"][0, 33:] == 255).all()
    assert (padded["image"][0, 33:] == 0).all()


def test_augmentation_differs_between_epochs_and_seeds(textured_source):
    source = textured_source[:1]
    first, second = take(stream(source), 2)
    assert (first["image"] != second["image"]).any()
    assert (next(stream(source, seed=2))["image"] != first["image"]).any()
    fixed = take(stream(source, random_scale=False, crop_size=40), 8)
    assert all((batch["label"][0, :16, :24] < 255).all() for batch in fixed)
    assert all((batch["label"][0, 16:] == 255).all() for batch in fixed)


def test_a_resumed_stream_continues_bit_for_bit_whatever_the_workers(textured_source):
    expected = take(stream(textured_source, batch_size=2), 9)
    for workers_before, workers_after in ((0, 1), (2, 0)):
        before = stream(textured_source, batch_size=2, workers=workers_before)
        start = before.get_state()
        assert_equal(take(before, 4), expected[:4])
        state = json.loads(json.dumps(before.get_state()))
        assert_equal(take(before, 2), expected[4:6])  # Reading the state disturbs nothing.
        before.set_state(start)
        assert_equal(take(before, 1), expected[:1])
        before.close()
        after = stream(textured_source, batch_size=2, workers=workers_after)
        after.set_state(state)
        assert after.get_state() == state
        assert_equal(take(after, 5), expected[4:])
        after.close()


def test_hosts_share_one_stream(textured_source):
    expected = take(stream(textured_source), 12)
    for hosts in (2, 3):
        for host in range(hosts):
            share = take(stream(textured_source, shard_index=host, shard_count=hosts), 12 // hosts)
            assert_equal(share, expected[host::hosts])


def test_epochs_are_complete_whatever_hosts_and_batches_they_are_read_by(rng):
    """The number of hosts and the batch size change in the middle of epochs."""
    count = int(rng.integers(30, 60))
    source, seed = plain_source(count), int(rng.integers(1000))
    expected = identities(stream(source, seed=seed), 2 * count)
    found, state = [], {"examples_taken": 0}
    while len(found) < 2 * count:
        hosts, batch_size = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        streams = [
            stream(source, seed=seed, batch_size=batch_size, shard_index=host, shard_count=hosts)
            for host in range(hosts)
        ]
        for each in streams:
            each.set_state(state)
        for _ in range(int(rng.integers(1, 4))):
            batches = [next(each)["label"][:, 0, 0].tolist() for each in streams]
            # Host k of n has every n-th example of a step.
            found += [batches[index % hosts][index // hosts] for index in range(hosts * batch_size)]
        state, *others = (each.get_state() for each in streams)
        assert all(other == state for other in others)
        assert state == {"examples_taken": len(found)}
    assert found[: 2 * count] == expected


def test_evaluation_sees_each_example_once_in_order():
    source = plain_source(7)
    for shards, workers in ((1, 2), (2, 0), (9, 0)):
        for shard in range(shards):
            options = {"shard_index": shard, "shard_count": shards, "workers": workers}
            examples = list(evaluation_examples(source, **options))
            # Python reports objects that remain in shared memory when a program ends.
            assert not any(type(x) is SharedMemoryArray for x in gc.get_objects())
            assert [example["name"] for example in examples] == [f"n{i}" for i in range(7)[shard::shards]]
            for example in examples:
                index = int(example["name"][1:])
                assert example["image"].shape == (20 + index % 3, 30, 3)
                assert (example["image"] == 10 + index).all()
                assert (example["label"] == index).all()


def test_a_split_without_labels_can_be_predicted_but_not_trained_on():
    source = plain_source(3, labels=False)
    assert [example["label"] for example in evaluation_examples(source)] == [None] * 3
    for invalid in (source, []):
        with refused():
            stream(invalid)


@pytest.mark.parametrize(("data", "space"), [(8, 1), (4, 2), (2, 4), (1, 1)])
def test_to_device(data, space, rng):
    mesh = Mesh(np.array(jax.devices()[: data * space]).reshape(data, space), ("data", "space"))
    batch = {
        "image": rng.integers(0, 256, (8, 16, 12, 3), dtype=np.uint8),
        "label": rng.integers(0, 256, (8, 16, 12), dtype=np.uint8),
    }
    placed = to_device(batch, mesh)
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
        shards = {shard.device: shard.data.shape for shard in placed[name].addressable_shards}
        assert len(shards) == data * space
        assert set(shards.values()) == {(8 // data, 16 // space, *array.shape[2:])}


SCRIPT = """
import multiprocessing, os, signal, sys
from danet_jax.data.pipeline import evaluation_examples, training_batches
from danet_jax.data.dataset import open_dataset

if __name__ == "__main__":
    options = {"height": 32, "width": 40, "train": 3, "val": 3}
    dataset = open_dataset("scenes", data_dir=sys.argv[1], options=options)
    settings = dict(batch_size=2, base_size=32, crop_size=32, seed=0)
    killed = sys.argv[2] == "killed"
    batches = training_batches(dataset.source("train"), workers=1 + killed, **settings)
    kept = [next(batches) for _ in range(3)]
    if killed:
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    examples = evaluation_examples(dataset.source("val"), workers=1)
    print(next(examples)["name"], kept[0]["image"].shape, "tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder in which data are prepared once."""
    return tmp_path_factory.mktemp("scripts")


def run_script(folder, how):
    """Runs a program with worker processes and returns its status, output and errors."""
    script = folder / "script.py"  # Worker processes import the main module.
    script.write_text(SCRIPT)
    # Workers that outlive the program would keep pipes open.
    with (folder / "output").open("w") as out, (folder / "errors").open("w") as err:
        status = subprocess.run(
            [sys.executable, "-W", "error", str(script), str(folder / "data"), how],
            stdout=out,
            stderr=err,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        ).returncode
    return status, (folder / "output").read_text(), (folder / "errors").read_text()


def test_workers_end_with_a_killed_program(folder):
    status, output, errors = run_script(folder, "killed")
    assert status == -signal.SIGKILL, errors
    workers = [int(pid) for pid in output.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in workers if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "workers outlive the program that started them"


def is_running(pid):
    """Returns whether a process exists and has not ended; one that ended may remain as a zombie of its parent."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_can_end_in_the_middle_of_a_stream(folder):
    assert run_script(folder, "ends") == (0, "val_00000 (2, 32, 32, 3) False\n", "")
