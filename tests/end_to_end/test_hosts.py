"""Two processes on this machine as two hosts: they stop together, end if one is lost, and refuse differences."""

import contextlib
import re
import shutil
import signal
import socket
import time

import pytest

from tests.reference import commands
from tests.reference.commands import ROOT, wait_for

FLAGS = (
    "--config.training.steps=100000",
    "--config.training.evaluate_every=100000",
    "--config.training.log_every=1",
)
FLAGS += ("--config.training.report=True", "--workdir=run")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """What one of these tests compiles, the next ones read; and each process has one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


def started(folder, *flags, **options):
    return commands.started(folder, *FLAGS, *flags, **options)


@contextlib.contextmanager
def two_hosts(folder, *flags, flags_of_second=(), programs=(ROOT / "run.py", ROOT / "run.py")):
    """Starts two processes as two hosts, and yields them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags += (f"--coordinator=127.0.0.1:{port}", "--processes=2", "--join_timeout=120")
    with (
        started(folder, *flags, "--process=0", program=programs[0]) as first,
        started(folder, *flags, "--process=1", *flags_of_second, program=programs[1]) as second,
    ):
        yield first, second


def own_lines(error):
    """Lines on standard error, without JAX's notes about SIGTERM or slow compilation."""
    return [line for line in error.splitlines() if line.startswith(("run.py:", "Traceback", "Exception"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("receivers", "number", "moment", "flags"),
    [
        ((1,), signal.SIGTERM, "step 2/", ()),
        ((0, 1), signal.SIGTERM, "step 2/", ()),
        ((1,), signal.SIGUSR1, "step 2/", ()),
        ((0,), signal.SIGTERM, "12 examples", ()),
        (
            (1,),
            signal.SIGTERM,
            "step 2/",
            ("--config.training.evaluate_every=2", "--config.dataset.options.val=60"),
        ),
    ],
    ids=["one", "all", "SIGUSR1", "before the first step", "during an evaluation"],
)
def test_a_signal_to_any_host_stops_all_hosts_after_the_same_step(receivers, number, moment, flags, tmp_path):
    with two_hosts(tmp_path, *flags) as hosts:
        wait_for(hosts[0], moment)
        for host in receivers:
            hosts[host].send_signal(number)
        outputs = [host.communicate(timeout=200) for host in hosts]
    assert [host.returncode for host in hosts] == [143, 143], outputs
    assert [own_lines(error) for _, error in outputs] == [[], []]
    lasts = [output.strip().splitlines()[-1] for output, _ in outputs]
    steps = [
        int(re.search(r"stopped by SIG\w+ at step (\d+) of 100000, saved in run;", line)[1]) for line in lasts
    ]
    assert steps[0] == steps[1] >= 1
    assert (tmp_path / f"run/checkpoints/{steps[0]}/digests.json").exists()
    if flags:
        assert "step 2/100000 validation" in outputs[0][0]
    elif len(receivers) == 2:
        # One host alone goes on from there, and SIGUSR1 stops it, too.
        with started(tmp_path, "--config.mesh.data=1") as alone:
            assert f" {steps[0]} " in wait_for(alone, "from step")
            wait_for(alone, f"step {steps[0] + 1}/")
            alone.send_signal(signal.SIGUSR1)
            output, error = alone.communicate(timeout=100)
        assert (alone.returncode, own_lines(error)) == (143, [])
        assert output.strip().splitlines()[-1].startswith("stopped by SIGUSR1 at step ")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_losing_a_host_ends_the_other(lost, number, tmp_path):
    with two_hosts(tmp_path) as hosts:
        wait_for(hosts[0], "step 2/")
        hosts[lost].send_signal(number)
        since = time.perf_counter()
        hosts[1 - lost].communicate(timeout=90)
        assert time.perf_counter() - since < 60
    assert hosts[1 - lost].returncode not in (0, 143)


FAILING = """
import sys
sys.path.insert(0, {root!r})
import run
from danet_jax.errors import InputError
from danet_jax.modes import train

to_device, steps = train.to_device, []

def failing(*arguments):
    steps.append(None)
    if len(steps) == 4:
        raise {error}("data/7: cannot be read")
    return to_device(*arguments)

train.to_device = failing
sys.exit(run.main(sys.argv))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "error"), [(0, "InputError"), (1, "InputError"), (1, "ValueError")])
def test_a_failing_host_reports_the_reason_and_ends_the_other(failing, error, tmp_path):
    program = tmp_path / "failing.py"
    program.write_text(FAILING.format(root=str(ROOT), error=error))
    programs = [ROOT / "run.py"] * 2
    programs[failing] = program
    with two_hosts(tmp_path, "--config.training.checkpoint_every=1", programs=programs) as hosts:
        wait_for(hosts[0], "step 3/")
        (_, reason), _ = hosts[failing].communicate(timeout=90), hosts[1 - failing].communicate(timeout=90)
    assert hosts[failing].returncode == 1
    assert hosts[1 - failing].returncode not in (0, 143)
    last = reason.splitlines()[-1]
    assert last.startswith("run.py: data/7: cannot be read")
    assert ("Traceback" in reason) == (error == "ValueError")


@pytest.mark.slow
def test_hosts_with_different_recipes_or_code_are_refused(tmp_path):
    with two_hosts(tmp_path, flags_of_second=("--config.seed=7",)) as hosts:
        errors = [host.communicate(timeout=300)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [1, 1]
    for error in errors:
        assert "config.seed is 0 on host 0 and 7 on host 1" in error
        assert len(own_lines(error)) == 1, error
    for name in ("danet_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "run.py", tmp_path)
    with (tmp_path / "danet_jax/modes/train.py").open("a") as file:
        file.write("# changed\n")
    with two_hosts(tmp_path, programs=(ROOT / "run.py", tmp_path / "run.py")) as hosts:
        errors = [host.communicate(timeout=300)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [1, 1]
    for error in errors:
        assert "different code: danet_jax is '" in error
        assert len(own_lines(error)) == 1, error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_joining_times_out(tmp_path):
    with started(
        tmp_path, "--coordinator=127.0.0.1:1", "--processes=2", "--process=1", "--join_timeout=2"
    ) as process:
        since = time.perf_counter()
        process.communicate(timeout=100)
        assert time.perf_counter() - since < 60
    assert process.returncode != 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "ompi"])
def test_slurm_and_open_mpi_jobs_are_detected(cluster, tmp_path, rng):
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
