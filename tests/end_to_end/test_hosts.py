"""Two processes on this machine as two hosts: they stop together, end when one is lost, and refuse what differs."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = (
    f"--config={ROOT / 'configs/quickstart.py'}",
    "--config.dataset.options.height=32",
    "--config.dataset.options.width=48",
    "--config.dataset.options.train=12",
    "--config.dataset.options.val=2",
    "--config.dataset.base_size=32",
    "--config.dataset.crop_size=32",
    "--config.dataset.workers=0",
    "--config.training.batch_size=2",
    "--config.training.steps=100000",
    "--config.training.evaluate_every=100000",
    "--config.training.log_every=1",
    "--config.model.output_stride=32",
    "--workdir=run",
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


@contextlib.contextmanager
def started(folder, *flags, environment=None, program=ROOT / "run.py"):
    command = [sys.executable, "-u", str(program), *FLAGS, *flags]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.kill()  # what it started ends with it
        process.communicate()


@pytest.fixture
def by_hand():
    """Flags of each of two hosts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        (f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={host}", "--join_timeout=120")
        for host in range(2)
    ]


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return line
    pytest.fail(f"ended without {text!r}: {process.stderr.read()}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--coordinator=here", "--processes=2", "--process=0"), "--coordinator=here must be HOST:PORT"),
        (("--coordinator=here:1", "--process=0"), "--coordinator needs --processes"),
        (("--coordinator=here:1", "--processes=2", "--process=2"), "--process=2 must be from 0 to 1"),
        (("--processes=2",), "need --coordinator=HOST:PORT"),
        (("--join_timeout=0",), "--join_timeout=0 must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message, main, capsys):
    assert main(*FLAGS, *flags) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_never_joins_is_named(host, by_hand, tmp_path):
    with started(tmp_path, *by_hand[host], "--join_timeout=2") as process:
        _, error = process.communicate(timeout=200)
    assert process.returncode == 1
    assert error == (
        f"run.py: of 2 hosts {1 - host} did not join within 2 s (--join_timeout); start the same command there, too, "
        "and then on all\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_hosts_with_different_recipes_refuse_to_start(by_hand, tmp_path):
    with (
        started(tmp_path, *by_hand[0]) as first,
        started(tmp_path, *by_hand[1], "--config.seed=7") as second,
    ):
        errors = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1)
    for error in errors:
        assert "different recipes: seed is 0 on host 0 and 7 on host 1" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_that_is_told_to_stop_stops_both_and_one_alone_goes_on(by_hand, tmp_path):
    with started(tmp_path, *by_hand[0]) as first, started(tmp_path, *by_hand[1]) as second:
        wait_for(first, "step 2/")
        second.send_signal(signal.SIGTERM)
        (output, error), (_, other) = first.communicate(timeout=300), second.communicate(timeout=300)
    assert (first.returncode, second.returncode) == (143, 143), error + other
    assert error == other == ""
    last = output.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM at step ")
    step = int(last.split()[5])
    with started(tmp_path, "--config.mesh.data=1") as alone:
        assert f"going on from step {step} " in wait_for(alone, "going on")
        wait_for(alone, f"step {step + 1}/")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_death_of_one_ends_the_other_in_a_line(lost, by_hand, tmp_path):
    with started(tmp_path, *by_hand[0]) as first, started(tmp_path, *by_hand[1]) as second:
        wait_for(first, "step 2/")
        dead, other = (first, second) if lost == 0 else (second, first)
        dead.kill()
        killed = time.perf_counter()
        _, error = other.communicate(timeout=100)
        assert time.perf_counter() - killed < 30
    assert other.returncode == 1
    assert f"run.py: host {lost} " in error
    assert "is lost" in error
    assert "the same command on all hosts goes on from the last checkpoint" in error
    assert error.count("\n") == 1, error


@pytest.mark.slow
def test_one_that_is_told_to_stop_before_the_first_step_ends_both(by_hand, tmp_path):
    with started(tmp_path, *by_hand[0]) as first, started(tmp_path, *by_hand[1]) as second:
        wait_for(first, "12 examples")
        second.send_signal(signal.SIGTERM)
        told = time.perf_counter()
        (_, error), (output, other) = first.communicate(timeout=100), second.communicate(timeout=100)
        assert time.perf_counter() - told < 30
    assert (first.returncode, second.returncode) == (143, 143), error + other
    assert (
        output.splitlines()[-1] == "stopped by SIGTERM before the first step; the same command starts again"
    )
    assert other == ""
    assert error.startswith("run.py: host 1 (")
    assert "was stopped by SIGTERM; the same command on all hosts goes on" in error
    assert error.count("\n") == 1, error


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_one_that_is_frozen_ends_the_other_in_a_line(frozen, by_hand, tmp_path):
    with started(tmp_path, *by_hand[0]) as first, started(tmp_path, *by_hand[1]) as second:
        wait_for(first, "step 2/")
        silent, other = (first, second) if frozen == 0 else (second, first)
        children = pathlib.Path(f"/proc/{silent.pid}/task/{silent.pid}/children").read_text().split()
        processes = [silent.pid, *map(int, children)]
        try:
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            since = time.perf_counter()
            _, error = other.communicate(timeout=100)
            assert time.perf_counter() - since < 30
        finally:
            for process in processes:
                os.kill(process, signal.SIGKILL)
    assert other.returncode == 1
    assert error == (
        f"run.py: host {frozen} is lost (it gives no sign of life); the same command on all hosts goes on from the "
        "last checkpoint\n"
    )


@pytest.mark.slow
def test_hosts_with_different_code_refuse_to_start(by_hand, tmp_path):
    for name in ("danet_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "run.py", tmp_path)
    with (tmp_path / "danet_jax/modes/train.py").open("a") as file:
        file.write("# changed\n")
    with (
        started(tmp_path, *by_hand[0]) as first,
        started(tmp_path, *by_hand[1], program=tmp_path / "run.py") as second,
    ):
        errors = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1)
    for error in errors:
        assert "the hosts were started with different code: danet_jax is '" in error
        assert error.count("\n") == 1, error


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "ompi"])
def test_jobs_of_slurm_and_open_mpi_are_found(cluster, tmp_path, rng):
    job = int(rng.integers(1, 4000))
    environments = [
        {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(host),
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_NODES": "2",
        }
        if cluster == "slurm"
        else {
            "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": str(host),
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        }
        for host in range(2)
    ]
    flags = ("--distributed", "--config.training.steps=1", "--join_timeout=120")
    with (
        started(tmp_path, *flags, environment=environments[0]) as first,
        started(tmp_path, *flags, environment=environments[1]) as second,
    ):
        outputs = [process.communicate(timeout=300) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert "step 1/1 validation" in outputs[0][0]
    assert "step" not in outputs[1][0]
