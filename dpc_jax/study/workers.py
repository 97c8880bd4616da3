"""Which workers of a study are alive, and how one takes over what a dead one left.

A worker is a session of a process on a study. It is dead when it signed off, when its process is gone (same
machine: process id and start time are looked up), or when it has been silent for a grace time (other machines).

Optuna's own heartbeat (`RDBStorage(heartbeat_interval=...)`) needs a database, which a journal file is not, and its
thread beats only inside `Study.optimize`, where this project asks and tells in batches. Its
`RetryHeartbeatStaleTrialCallback` (once `RetryFailedTrialCallback`) fails a dead worker's trial and adds a copy with a
new number, while here a proposal is a function of its number: a dead worker's trial is taken over as it is.
"""

import contextlib
import dataclasses
import os
import pathlib
import socket
import time
import uuid
from typing import Any

import optuna
from optuna.trial import FrozenTrial

_OPEN: set[str] = set()  # tokens of this process's open sessions

ROUNDS = 20
"""How often a worker tries again after another one was faster."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """One session; stored with every trial that it evaluates."""

    machine: str  # kernel and process namespace: two workers with the same one can look each other up
    pid: int
    start: str  # start time of the process, since process ids are used again
    token: str  # the session

    @classmethod
    def here(cls) -> 'Worker':
        """A new session of this process."""
        worker = cls(_machine(), os.getpid(), _process_start(os.getpid()), uuid.uuid4().hex[:12])
        _OPEN.add(worker.token)
        return worker

    def leave(self) -> None:
        """Ends the session in this process; others see it in the attribute `beat_name`."""
        _OPEN.discard(self.token)

    @property
    def beat_name(self) -> str:
        """The study's user attribute with the time of the last sign of life; None after it signed off."""
        return f'beat.{self.token}'

    def is_alive(self, beats: dict[str, Any], grace_seconds: float) -> bool:
        """Whether the session may still evaluate its trials, given the study's user attributes."""
        if self.token in _OPEN:
            return True
        beat = beats.get(self.beat_name, 0.0)
        if beat is None:
            return False
        if self.machine == _machine():
            return self.pid != os.getpid() and _process_start(self.pid) == self.start
        return time.time() - beat < grace_seconds


def owner(trial: FrozenTrial) -> Worker:
    """The worker that evaluates a trial of a study."""
    return Worker(**trial.user_attrs['owner'])


def take_over(
    storage: optuna.storages.BaseStorage, trial: FrozenTrial, me: Worker, *, beats: dict[str, Any], grace_seconds: float
) -> bool:
    """Makes `me` the owner of a dead worker's trial; false if another worker wants it or has it.

    Each says that it wants the trial and then looks who else does: of two, at least one sees the other and steps
    back. If both do, both try again.
    """
    claim = f'claim.{me.token}'
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial._trial_id, claim, dataclasses.asdict(me))
        now = storage.get_trial(trial._trial_id)
        claims = [Worker(**value) for name, value in now.user_attrs.items() if name.startswith('claim.') and value]
        rivals = [worker for worker in claims if worker != me and worker.is_alive(beats, grace_seconds)]
        free = owner(now) == owner(trial) and not rivals
        if free:
            storage.set_trial_user_attr(trial._trial_id, 'owner', dataclasses.asdict(me))
        storage.set_trial_user_attr(trial._trial_id, claim, None)
        return free
    return False  # finished in the meantime


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip())
        parts.append(os.readlink('/proc/self/ns/pid'))
    return '/'.join(parts)


def _process_start(pid: int) -> str:
    """A text that stays the same as long as the process lives; '' when there is no such process."""
    if not pathlib.Path('/proc/self/stat').exists():
        return _process_exists(pid)
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return ''
    state, *fields = stat.rpartition(')')[2].split()  # the name before it may hold anything
    return '' if state in 'ZX' else fields[18]  # proc(5): state is field 3, starttime field 22


def _process_exists(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ''
    except PermissionError:
        pass  # another user's process, so it exists
    return 'exists'
