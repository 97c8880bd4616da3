"""Ctrl-C waits where it would do harm, and is not lost."""

import signal
import threading

import pytest

from dpc_jax.stopping import defer_signals, note_signals, signal_waits


@pytest.fixture(autouse=True)
def handlers():
    """SIGTERM stops as Ctrl-C does, as in run.py; both are as before at the end."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_end(sent):
    done = []

    @defer_signals()
    def work():
        signal.raise_signal(sent)
        done.append('all')

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ['all']


def test_the_outermost_decides():
    done = []

    def work():
        with defer_signals():
            with defer_signals():
                signal.raise_signal(signal.SIGINT)
            done.append('after the inner one')

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ['after the inner one']


def test_many_signals_are_one():
    done = []

    def work():
        with defer_signals():
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
        done.append('never')

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == []


def test_without_a_signal_errors_and_results_pass():
    @defer_signals()
    def divide(by):
        return 1 / by

    assert divide(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        divide(0)


def test_who_waits_within_it_learns_of_a_signal():
    found = []

    @defer_signals()
    def work():
        with defer_signals():
            found.append(signal_waits())
        signal.raise_signal(signal.SIGINT)
        found.append(signal_waits())
        with defer_signals():
            found.append(signal_waits())  # further down, too

    with pytest.raises(KeyboardInterrupt):
        work()
    assert [*found, signal_waits()] == [False, True, True, False]


def test_other_threads_are_left_alone():
    done = []

    @defer_signals()
    def work():
        done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_only_noted(number):
    before = signal.getsignal(number)
    with note_signals() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked()
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_is_one():
    with note_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_other_threads_nothing_is_noted():
    found = []

    def work():
        with note_signals() as asked:
            found.append((asked(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.default_int_handler)]
