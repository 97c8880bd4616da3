"""How far a search is, while it runs: a line on the screen, and scalars in TensorBoard's event files."""

import math
import pathlib
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from dpc_jax.progress import Clock, Reported, duration
from dpc_jax.study.batch import LEARNED
from dpc_jax.study.rows import Candidate


class Progress(Reported):
    """How far a search is: `with Progress(total, done, best, logdir) as progress: progress.update(candidates)`.

    `total` is the number of candidates to sample, `done` and `best` what an earlier start of the same search has
    finished (`best` None where nothing has a score). References are logged and take no part in any of the counts.
    The scalars have the candidate's number as their step, so that a later start goes on where this one ends:

        candidate/score, candidate/best_score   in 0..1; a candidate that failed has no score
        candidate/loss, candidate/seconds       last mean training loss; seconds that it took
        reference/<name>                        score of a reference

    What the sampler shows (`study.batch.SHOWN`) has the number of finished candidates that it had learned from as its
    step. Candidates that were drawn from the same knowledge show it once, those of `before` included, which an earlier
    start has finished:

        strategy/<name>                         e.g. entropy, baseline and reward of the controller

    `label` is what scores are called. `console` is that of standard output unless given; `clock` counts seconds.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        best: Candidate | None = None,
        logdir: pathlib.Path | str | None = None,
        *,
        before: Sequence[Candidate] = (),
        label: str = 'mIoU',
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.total, self.done, self.best = total, done, best
        self.failed = 0
        self._before, self._label = done, label
        self._shown = {candidate.shown[LEARNED] for candidate in before if candidate.shown}
        super().__init__('candidates', None if logdir is None else pathlib.Path(logdir), console, clock)

    def update(self, candidates: Sequence[Candidate]) -> None:
        """Takes in candidates that were finished, in any order and number."""
        for candidate in sorted(candidates, key=lambda candidate: candidate.number):
            if not candidate.reference:
                self._take(candidate)
            if self._events is not None:
                self._events.add(candidate.number, _scalars(candidate, self.best))
                self._show(candidate.shown)
        if self._events is not None:
            self._events.flush()
        self._screen.show()

    def _show(self, shown: Mapping[str, float]) -> None:
        """Adds what the sampler shows, unless the same was added before."""
        if self._events is None or not shown or shown[LEARNED] in self._shown:
            return
        self._shown.add(shown[LEARNED])
        numbers = {f'strategy/{name}': value for name, value in shown.items() if name != LEARNED}
        self._events.add(int(shown[LEARNED]), numbers)

    def resume(self, candidates: Sequence[Candidate]) -> None:
        """Takes in candidates that an earlier start has finished: they count as done and do not enter the rate."""
        for candidate in candidates:
            self._take(candidate)
        self._before += len(candidates)
        self._screen.show()

    def _take(self, candidate: Candidate) -> None:
        self.done += 1
        self.failed += candidate.state == 'failed'
        if candidate.state == 'complete' and (self.best is None or candidate.score > self.best.score):
            self.best = candidate

    def facts(self) -> list[str]:
        """Rate, time left and failures, as far as they are known."""
        here, minutes = self.done - self._before, (self._clock() - self._start) / 60
        facts = []
        if here and minutes:
            facts.append(f'{here / minutes:.3g} candidates/min')
            if self.done < self.total:
                facts.append(f'{duration((self.total - self.done) * 60 * minutes / here)} left')
        if self.failed:
            facts.append(f'{self.failed} failed')
        return facts

    def note(self) -> str:
        """The best candidate so far."""
        return '' if self.best is None else f'best {100 * self.best.score:.2f} % {self._label}: {self.best.key}'


def _scalars(candidate: Candidate, best: Candidate | None) -> dict[str, float]:
    if candidate.reference:
        scalars = {f'reference/{candidate.reference}': candidate.score}
    else:
        scalars = {
            'candidate/score': candidate.score,
            'candidate/best_score': math.nan if best is None else best.score,
            'candidate/loss': next((loss for loss in reversed(candidate.losses) if math.isfinite(loss)), math.nan),
            'candidate/seconds': candidate.seconds,
        }
    return {tag: value for tag, value in scalars.items() if math.isfinite(value)}
