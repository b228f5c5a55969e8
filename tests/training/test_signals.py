"""SIGTERM and SIGINT during a training."""

import os
import signal

import pytest

from training.signals import Signals, StopRun


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_a_second_one_acts_as_usual(signum: int) -> None:
    before = [signal.getsignal(either) for either in (signal.SIGTERM, signal.SIGINT)]
    signals = Signals().__enter__()
    assert signals.received == 0
    os.kill(os.getpid(), signum)
    assert signals.received == signum
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    with pytest.raises(StopRun) as stopped:  # The signal came after the last look at it.
        signals.__exit__(None)
    assert stopped.value.signum == signum
    assert [signal.getsignal(either) for either in (signal.SIGTERM, signal.SIGINT)] == before
