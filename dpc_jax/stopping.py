"""Lets Ctrl-C and SIGTERM wait for a moment when they do no harm."""

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_waiting: list[list[int]] = []  # signals that came, one list for each `defer_signals` that is entered


def signal_waits() -> bool:
    """Whether a signal came that `defer_signals` holds back: long waiting within it should end."""
    return any(_waiting)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Within it SIGINT and SIGTERM wait; they are handled as usual when it ends. It is also a decorator.

    Python raises KeyboardInterrupt between any two instructions. In the middle of a transaction that leaves a
    database locked for everybody, this process included. In other threads than the main one, which alone gets
    signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS if signal.getsignal(number) is not None}
    _waiting.append(came)
    try:
        yield
    finally:
        _waiting.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def note_signals() -> Iterator[Callable[[], bool]]:
    """Within it a first SIGINT or SIGTERM is only noted: `with note_signals() as asked: while not asked(): ...`.

    A second Ctrl-C raises KeyboardInterrupt as usual.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS if signal.getsignal(number) is not None}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
