"""The loop of a search: ask, evaluate, tell, until a rung has its candidates."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from dpc_jax.base import KeepGoing, ProxyResult, Rung, stack
from dpc_jax.study import Candidate, Progress, Proposal, Study

WAIT_SECONDS = 2.0  # between two looks at what other workers still do


def climb(
    study: Study,
    rung: Rung,
    progress: Progress,
    *,
    generation: int,
    only: frozenset[str] = frozenset(),
) -> set[int]:
    """Asks, evaluates and tells until `rung.keep` candidates are finished; gives the numbers of those finished here.

    `only` are the canonical keys of given cells: nothing else is asked for, no pruner stops them, and it ends when they
    are finished.
    """
    here: set[int] = set()
    scored = Scored(rung, study.candidates())
    while True:
        budget = None if only else rung.keep
        proposals = study.ask(generation, budget, sampled=not only)
        if not proposals and (study.finished(only) if only else not study.running_elsewhere()):
            return here
        if not proposals:
            time.sleep(WAIT_SECONDS)
        fresh, same = scored.split(proposals)
        for group in _groups(fresh, rung.at_once):
            keep_going = None if only else _pruning(study, group, rung.best_of)
            result = rung.evaluate(stack([p.genotype for p in group]), keep_going)
            record(study, group, result)
            progress.update(scored.add(study.candidates({p.number for p in group})))
        for proposal in same:
            study.tell_same(proposal.number, scored.number(proposal))
        progress.update(study.candidates({p.number for p in same}))
        here |= {p.number for p in proposals}


class Scored:
    """Which cells of a rung have a score, by what they are on its maps: cells that are equal there share one.

    A candidate that was stopped early is shared within its batch alone, whose members are all compared with the same.
    """

    def __init__(self, rung: Rung, finished: Sequence[Candidate]) -> None:
        self._same = rung.same
        self._numbers: dict[str, int] = {}
        self._of_batch: dict[str, int] = {}
        self.add([candidate for candidate in finished if candidate.state != 'pruned'])

    def split(self, batch: Sequence[Proposal]) -> tuple[list[Proposal], list[Proposal]]:
        """Those that have to be evaluated, and those that equal one which has a score or is among the former."""
        self._of_batch = {}
        fresh: dict[str, Proposal] = {}
        same = []
        for proposal in batch:
            key = self._same(proposal.genotype) if self._same else str(proposal.number)
            if key in self._numbers or key in fresh:
                same.append(proposal)
            else:
                fresh[key] = proposal
        return list(fresh.values()), same

    def add(self, finished: Sequence[Candidate]) -> Sequence[Candidate]:
        """Takes in what is finished, and gives it back."""
        for candidate in finished:
            if self._same is not None:
                numbers = self._of_batch if candidate.state == 'pruned' else self._numbers
                numbers.setdefault(self._same(candidate.genotype), candidate.number)
        return finished

    def number(self, proposal: Proposal) -> int:
        """The finished candidate that the proposal equals."""
        key = self._same(proposal.genotype) if self._same else ''
        return self._numbers[key] if key in self._numbers else self._of_batch[key]


def record(study: Study, group: Sequence[Proposal], result: ProxyResult) -> None:
    """Tells the study what an evaluator found; a candidate that diverged is recorded as failed."""
    for i, proposal in enumerate(group):
        evaluated = np.flatnonzero(np.isfinite(result.curves[i]))
        study.tell(
            proposal.number,
            score=float(result.scores[i]),
            curve=[float(v) for v in result.curves[i] if np.isfinite(v)],
            losses=[float(v) for v in result.losses[i] if np.isfinite(v)],
            steps=int(result.steps[i]),
            seconds=result.seconds / len(group),
            pruned=bool(result.pruned[i]),
            failure='' if result.finite[i] else f'non-finite loss within {result.steps[i]} steps',
            confusions=list(result.confusions[i][evaluated]),
            extras={name: float(values[i]) for name, values in result.extras.items()},
        )


def _pruning(study: Study, group: Sequence[Proposal], best_of: Mapping[int, int]) -> KeepGoing:
    """Reports each score to Optuna between evaluations and stops the candidates that its pruner or `best_of` stops.

    References are what others are compared with, so they are trained to the end and take no other's place.
    """
    references = np.array([bool(proposal.reference) for proposal in group])

    def keep_going(evaluation: int, scores: Float[np.ndarray, ' P']) -> Bool[np.ndarray, ' P']:
        going = np.ones(len(group), bool)
        for i, proposal in enumerate(group):
            if np.isfinite(scores[i]):
                study.report(proposal.number, evaluation, float(scores[i]))
                going[i] = bool(proposal.reference) or not study.should_prune(proposal.number)
        if evaluation in best_of:
            going &= references | among_best(np.where(references, np.nan, scores), best_of[evaluation])
        return going

    return keep_going


def among_best(scores: Float[np.ndarray, ' P'], count: int) -> Bool[np.ndarray, ' P']:
    """The best so many; of equal ones the earlier. Who has no score (NaN) is not among them."""
    order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind='stable')
    best = np.zeros(len(scores), bool)
    best[order[:count]] = True
    return best & np.isfinite(scores)


def _groups(proposals: Sequence[Proposal], size: int) -> list[Sequence[Proposal]]:
    return [proposals[start : start + size] for start in range(0, len(proposals), size)]
