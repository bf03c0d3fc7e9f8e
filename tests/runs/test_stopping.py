"""Signals that stop a run: what each of them ends with, and that `nohup` is respected."""

import os
import signal

import pytest

from danet_jax.runs.stopping import StopSignals


@pytest.fixture
def hangup():
    """A closed terminal's signal ends the process, even if the tests run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 143)],
)
@pytest.mark.parametrize("between_steps", [True, False])
def test_a_signal_is_deferred_between_steps_and_immediate_elsewhere(number, status, between_steps):
    before = signal.getsignal(number)
    done = []
    with StopSignals() as signals:
        if between_steps:
            with signals.between_steps():
                os.kill(os.getpid(), number)
                done.append("the step")
                assert signals.agreed()
        else:
            os.kill(os.getpid(), number)
        done.append("the rest")
    assert done == ["the step"] * between_steps
    assert signals.status == status
    assert str(signals).startswith(f"stopped by {number.name} ")
    assert signal.getsignal(number) == before


@pytest.mark.usefixtures("hangup")
def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
