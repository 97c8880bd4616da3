"""The rows of a study: what is asked for, what was found out, and their order."""

import base64
import dataclasses
import datetime
import math
import os
import socket
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat, SupportsInt, overload

import numpy as np
from jaxtyping import Int
from optuna.trial import FrozenTrial, TrialState

from dpc_jax.base import Genotype
from dpc_jax.spaces import SearchSpace
from dpc_jax.study.batch import SHOWN
from dpc_jax.study.index import is_done, members

STATES = {'complete': TrialState.COMPLETE, 'pruned': TrialState.PRUNED, 'failed': TrialState.FAIL}
"""A candidate's states, in the order of the ranking, and Optuna's."""


Confusion = tuple[tuple[int, ...], ...]
"""Pixels by (label, prediction), as integers of Python, so that rows compare."""


class Confusions(Sequence[Confusion]):
    """The matrices of a candidate, as they are stored; one is unpacked when it is looked at.

    A report of 28,000 candidates looks at none.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> Confusion: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Confusion, ...]: ...

    def __getitem__(self, place: int | slice) -> Confusion | tuple[Confusion, ...]:
        texts = self._texts[place]
        return unpacked(texts) if isinstance(texts, str) else tuple(map(unpacked, texts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Confusions, tuple)) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is stored with every candidate: where its score comes from."""

    seed: int
    config_hash: str
    commit: str
    device: str
    rung: str = 'proxy'
    worker: str = dataclasses.field(default_factory=lambda: f'{socket.gethostname()}:{os.getpid()}')


Costs = Mapping[str, Callable[[Genotype], SupportsFloat]]
"""Name -> what an unbatched genotype costs."""


class Proposal(NamedTuple):
    """A cell to evaluate and to `tell`."""

    number: int  # of the trial, unique in the study
    genotype: Genotype  # [K]
    key: str  # canonical
    reference: str  # '' for candidates, else the reference's name


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A finished evaluation.

    >>> best = max(dpc_jax.search(config, 'runs/scenes'), key=lambda candidate: candidate.score)
    >>> best.score, best.key, best.genotype
    """

    number: int  # of the trial, unique in the study
    reference: str  # '' for candidates, else the reference's name
    genotype: Genotype  # [K]
    key: str  # canonical
    state: str  # 'complete', 'pruned' or 'failed'
    score: float  # NaN if failed; the last one before it was stopped if pruned
    curve: tuple[float, ...]
    losses: tuple[float, ...]
    steps: int
    seed: int
    rung: str
    config_hash: str
    commit: str
    device: str
    seconds: float
    worker: str
    finished: str  # ISO time with zone
    failure: str  # '' or why
    confusions: Sequence[Confusion] = ()  # pixels by (label, prediction) at each point of the curve, as tuples
    extras: Mapping[str, float] = dataclasses.field(default_factory=dict)  # other scores by name, at the last point
    same_as: int | None = None  # number of the candidate whose evaluation this is, being the same function
    shown: Mapping[str, float] = dataclasses.field(default_factory=dict)  # numbers of the sampler that drew it
    drawn: bool | None = None  # at random, to compare the best of a ladder with; None: an older study does not say


def ranking(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first: complete by score, equal scores by key; then pruned, likewise; failed last, by key."""
    order = list(STATES)

    def place(candidate: Candidate) -> tuple[int, float, str]:
        score = candidate.score if math.isfinite(candidate.score) else -math.inf
        return order.index(candidate.state), -score, candidate.key

    return sorted(candidates, key=place)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were evaluated to the end, without duplicates."""
    return [trial for trial in members(trials) if is_done(trial)]


def proposal_of(trial: FrozenTrial, space: SearchSpace) -> Proposal:
    """The proposal that a trial was."""
    genotype = space.from_params(trial.params)
    return Proposal(trial.number, genotype, trial.user_attrs['key'], trial.user_attrs['reference'])


def outcome_of(
    run: RunInfo,
    *,
    score: SupportsFloat,
    curve: Iterable[SupportsFloat],
    losses: Iterable[SupportsFloat],
    steps: SupportsInt,
    seconds: SupportsFloat,
    pruned: bool,
    failure: str,
    confusions: Iterable[Int[np.ndarray, 'L L']],
    extras: Mapping[str, SupportsFloat],
) -> dict[str, Any]:
    """What is stored of a finished evaluation, as JSON; see `Study.tell`."""
    if not failure and not math.isfinite(float(score)):
        failure = 'non-finite loss'
    return {
        **dataclasses.asdict(run),
        'state': 'failed' if failure else 'pruned' if pruned else 'complete',
        'score': None if failure else float(score),
        'curve': [_finite(value) for value in curve],
        'losses': [_finite(value) for value in losses],
        'steps': int(steps),
        'seconds': float(seconds),
        'finished': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        'failure': failure,
        'confusions': [packed(confusion) for confusion in confusions],
        'extras': {name: float(value) for name, value in extras.items() if math.isfinite(float(value))},
    }


def _finite(value: SupportsFloat) -> float | None:
    """None for NaN and infinity, which JSON lacks and some databases and dashboards refuse."""
    return float(value) if math.isfinite(float(value)) else None


def candidate_of(trial: FrozenTrial, space: SearchSpace) -> Candidate:
    """The candidate that a finished trial holds."""
    outcome = dict(trial.user_attrs['outcome'])
    for field in ('curve', 'losses'):
        outcome[field] = tuple(math.nan if value is None else float(value) for value in outcome[field])
    outcome['score'] = math.nan if outcome['score'] is None else float(outcome['score'])
    outcome['confusions'] = Confusions(outcome.get('confusions', ()))  # older studies have none
    more: dict[str, Any] = {'shown': dict(trial.system_attrs.get(SHOWN, {})), 'drawn': trial.user_attrs.get('drawn')}
    return Candidate(**proposal_of(trial, space)._asdict(), **outcome, **more)


def packed(confusion: Int[np.ndarray, 'L L']) -> str:
    """A matrix as a short text, for a storage: zlib and base64 of its int64 counts, row by row."""
    return base64.b64encode(zlib.compress(np.asarray(confusion, '<i8').tobytes(), 9)).decode()


def unpacked(text: str) -> Confusion:
    """Inverse of `packed`."""
    counts = np.frombuffer(zlib.decompress(base64.b64decode(text)), '<i8')
    side = math.isqrt(counts.size)
    return tuple(tuple(row) for row in counts.reshape(side, side).tolist())
