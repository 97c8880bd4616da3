"""An evaluator of two stages: a head alone on cached features, then the promising ones with their encoder, on images.

That is the evaluation of arXiv:1810.10804 (release): the second stage begins with the weights of the first and with the
encoder as it was, and its score is the one that counts. Between them stands whoever `keep_going` asks.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from dpc_jax.base import Genotype, KeepGoing, ProxyResult, PyTree
from dpc_jax.chunks import over_population
from dpc_jax.end_to_end import Both
from dpc_jax.population import PopulationEvaluator, Trained
from dpc_jax.proxy import CandidateState
from dpc_jax.proxy_settings import ProxySettings


@dataclasses.dataclass(frozen=True)
class TwoStages:
    """An `Evaluator`. Both stages take as many candidates at once.

    Attributes:
      first: on cached features.
      second: on images; its head is an `EndToEnd`.
      encoder: the variables that every candidate begins with.
    """

    first: PopulationEvaluator
    second: PopulationEvaluator
    encoder: PyTree

    @property
    def chunk(self) -> int:
        """Of both."""
        return self.first.chunk

    @property
    def population(self) -> int:
        """Of both."""
        return self.first.population

    def with_chunk(self, chunk: int, at_once: int) -> 'TwoStages':
        """The same with another chunk."""
        first, second = (stage.with_chunk(chunk, at_once) for stage in (self.first, self.second))
        return dataclasses.replace(self, first=first, second=second)

    def __call__(self, genotypes: Genotype, keep_going: KeepGoing | None = None) -> ProxyResult:
        """Trains and scores genotypes [P, ...]; the last point of a curve is that of the second stage.

        A candidate that is not promoted is one that was stopped early (`pruned`).

        Raises:
          OutOfMemoryError: the device's memory is not enough; no candidate is at fault.
        """
        first = self.first.trained(genotypes, keep_going, ask_at_end=True)
        if not first.alive.any():
            return _joined(first, None, self.second.settings)
        begun = self._begun(first, genotypes)
        return _joined(first, self.second.trained(genotypes, None, begun), self.second.settings)

    def _begun(self, first: Trained, genotypes: Genotype) -> Trained:
        """The candidates of the first stage with the encoder, before a step of the second."""
        seated = jax.tree.map(lambda genes: np.asarray(genes, np.int32)[first.seats.who], genotypes)
        begin = _begin(self.second.settings, self.chunk, self.second.mesh)
        return first._replace(candidates=begin(first.seats.taken, first.candidates, seated, self.encoder))


@functools.lru_cache(maxsize=8)
def _begin(settings: ProxySettings, chunk: int, mesh: Any) -> Any:
    """A program: candidates of the first stage -> of the second."""

    def one(candidate: CandidateState, genotype: Genotype, used: PyTree, encoder: PyTree) -> CandidateState:
        del genotype, used
        params = Both(encoder['params'], candidate.params)
        stats = Both(encoder['batch_stats'], candidate.stats)
        average = params if settings.polyak else ()
        return CandidateState(params, stats, settings.rule().init(params), average, candidate.finite)

    return over_population(one, settings.head, chunk, mesh, candidates=2)


def _joined(first: Trained, second: Trained | None, settings: ProxySettings) -> ProxyResult:
    """Both stages as one curve."""
    one, points = first.result, len(settings.stops())
    count, classes = len(one.finite), settings.head.num_classes
    if second is None:
        nothing = np.full((count, points), np.nan, np.float32)
        return one._replace(
            pruned=one.finite.copy(),
            curves=np.concatenate([one.curves, nothing], 1),
            losses=np.concatenate([one.losses, nothing], 1),
            confusions=np.concatenate([one.confusions, np.zeros((count, points, classes, classes), np.int64)], 1),
        )
    other, went_on = second.result, first.alive
    finite = one.finite & other.finite
    scores = np.where(went_on, other.scores, one.scores)
    return ProxyResult(
        scores=scores,
        curves=np.concatenate([one.curves, other.curves], 1),
        losses=np.concatenate([one.losses, other.losses], 1),
        finite=finite,
        pruned=finite & ~went_on,
        steps=one.steps + other.steps,
        seconds=one.seconds + other.seconds,
        confusions=np.concatenate([one.confusions, other.confusions], 1),
        extras={name: np.where(went_on, other.extras[name], values) for name, values in one.extras.items()},
    )
