"""Faults of a storage that pass: a server that restarts or drops a connection, a file that others lock, a full disk.

Whatever asks a storage goes through `Patient`, the one place where a call is tried again. A call that fails has changed
nothing, or has changed all that it should and the answer was lost; each call may be made twice:

* What it sets to a value has that value after the second time, too.
* A trial that is finished twice has been finished as it should; `Patient` looks.
* A trial that is written twice is two trials with one cell: `Study.ask` ends the later one, and finds the first.
"""

import contextlib
import errno
import gc
import logging
import random
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from dpc_jax import stopping

log = logging.getLogger(__name__)

T = TypeVar('T')

PATIENCE_SECONDS = 60.0
"""For so long a call is tried again: a server restarts in that time, and a person who looks on does not wait longer."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""Between two tries; each pause is about twice the one before. They are drawn, so that workers do not come together."""

PASSING = (
    sqlalchemy.exc.OperationalError,  # no connection, a connection that was dropped, a lock, a deadlock, a full disk
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
    OSError,
)
LASTING = ('readonly', 'no such table', 'no such column', 'password authentication failed')
"""Words of a database's faults that are called the same and do not pass."""

LASTING_NUMBERS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    return any(
        isinstance(cause, PASSING)
        and getattr(cause, 'errno', None) not in LASTING_NUMBERS
        and not any(words in str(getattr(cause, 'orig', cause)) for words in LASTING)
        for cause in causes(error)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on: Optuna wraps what a database says."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def patiently(
    call: Callable[[], T], passes: Callable[[BaseException], bool] = may_pass, seconds: float | None = None
) -> T:
    """What the call gives; tried again for so many seconds (`PATIENCE_SECONDS`) as long as what it raises `passes`.

    Ctrl-C, which waits while a storage is in use, ends the waiting.
    """
    ends = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except Exception as error:
            left = ends - time.monotonic()
            if not passes(error) or left < pause or stopping.signal_waits():
                raise
            if pause == FIRST_PAUSE_SECONDS:
                log.warning('the storage fails and is tried again for %.0f s: %s', left, one_line(error))
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def one_line(error: BaseException) -> str:
    """What the library said in its own words, in one line."""
    *_, cause = causes(error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector of garbage: it goes over the million objects of 28,000 trials again and again, which
    takes as long as it takes to read them."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _patient(name: str) -> Callable[..., Any]:
    def call(self: 'Patient', *args: Any, **kwargs: Any) -> Any:
        return self.call(lambda: getattr(self.storage, name)(*args, **kwargs))

    return call


class Patient(BaseStorage):
    """A storage whose calls are tried again; `give_up` makes the error of one that fails for good.

    The base class describes the methods.
    """

    def __init__(self, storage: BaseStorage, give_up: Callable[[BaseException], Exception]) -> None:
        self.storage, self._give_up = storage, give_up
        self._backend = getattr(storage, '_backend', None)
        self._lost = False  # it failed for good: later calls, such as signing off, are tried once

    def call(self, call: Callable[[], T]) -> T:
        """What the call gives, tried again."""
        try:
            result = patiently(call, seconds=0.0 if self._lost else None)
        except Exception as error:
            if not may_pass(error):
                raise
            self._lost = True
            raise self._give_up(error) from error
        self._lost = False
        return result

    create_new_study = _patient('create_new_study')
    delete_study = _patient('delete_study')
    set_study_user_attr = _patient('set_study_user_attr')
    set_study_system_attr = _patient('set_study_system_attr')
    get_study_id_from_name = _patient('get_study_id_from_name')
    get_study_name_from_id = _patient('get_study_name_from_id')
    get_study_directions = _patient('get_study_directions')
    get_study_user_attrs = _patient('get_study_user_attrs')
    get_study_system_attrs = _patient('get_study_system_attrs')
    get_all_studies = _patient('get_all_studies')
    create_new_trial = _patient('create_new_trial')
    set_trial_param = _patient('set_trial_param')
    get_trial_id_from_study_id_trial_number = _patient('get_trial_id_from_study_id_trial_number')
    set_trial_intermediate_value = _patient('set_trial_intermediate_value')
    set_trial_user_attr = _patient('set_trial_user_attr')
    set_trial_system_attr = _patient('set_trial_system_attr')
    get_trial = _patient('get_trial')
    get_best_trial = _patient('get_best_trial')
    remove_session = _patient('remove_session')

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with _uncollected():
            return self.call(lambda: self.storage.get_all_trials(study_id, deepcopy, states))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tries = 0

        def finish() -> bool:
            nonlocal tries
            tries += 1
            try:
                return self.storage.set_trial_state_values(trial_id, state, values)
            except optuna.exceptions.UpdateFinishedTrialError:
                trial = self.storage.get_trial(trial_id)
                if tries > 1 and trial.state == state and trial.values == (None if values is None else list(values)):
                    return True  # an earlier try did it, and its answer was lost
                raise

        return self.call(finish)
