"""Compares search strategies on a table of scored cells: many searches in minutes, without a training.

  python experiments/evaluate_cells.py --config=configs/scenes_search.py --workdir=runs/scenes --cells=sample:1000 \\
    --compressed
  python experiments/compare_strategies.py --config=configs/scenes_search.py --table=runs/scenes/cells/cells.csv.gz \\
    --out=runs/scenes/strategies

Each strategy runs `--repeats` searches of `--evaluations` cells under as many seeds. It is the sampler of a real
search, with its settings in the config (`--config.search.sampler_settings.evolution.population=20`), and is asked as
the study asks: `--together` cells at a time, from the scores of the batches before. Only the space is another one, that
of the table's cells; `table_space.py` says what this restriction means for strategies that look near good cells. A
cell's score is the mean over its seeds in the table.

Samplers of Optuna run too (`--strategies=uniform,optuna.TPESampler`), slowly; what they propose is taken for the cell
of the table that differs in the fewest choices. A search that finds nothing new any more keeps its best to the end.

Writes `strategies.md` (the best after some numbers of evaluations, regret, evaluations until it is near the table's
best), `strategies.csv` (quartiles after each evaluation) and `strategies.png` into `--out`.
"""

import io
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from absl import app, flags
from matplotlib import ticker
from matplotlib.figure import Figure
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dpc_jax import assembly, command_line, files, metrics, palette, samplers, strategy, study
from dpc_jax.base import InputError
from dpc_jax.progress import track
from experiments import cell_table, common
from experiments.table_space import TableSpace

TABLE = flags.DEFINE_list('table', [], 'One or more cells.csv or cells.csv.gz of evaluate_cells.py.')
STRATEGIES = flags.DEFINE_list('strategies', ['uniform', 'near_best', 'evolution'], 'As in config.search.sampler.')
REPEATS = flags.DEFINE_integer('repeats', 200, 'Searches of each strategy, under seeds 0, 1, ...', lower_bound=1)
EVALUATIONS = flags.DEFINE_integer(
    'evaluations', 300, 'Cells of each search; at most those of the table.', lower_bound=1
)
TOGETHER = flags.DEFINE_integer('together', 0, 'Cells in a batch; 0 takes config.search.population.', lower_bound=0)
NEAREST = flags.DEFINE_integer('nearest', 20, 'Least number of neighbours of a cell; at most a quarter of the table.')
WITHIN = flags.DEFINE_float('within', 0.2, 'Points to the best of the table that count as found.')
OUT = flags.DEFINE_string('out', '', 'Folder for tables and picture.')

REDRAWS = 20
"""So many known cells in a row end a search, as in a study."""

SHOWN_AFTER = (10, 30, 100, 300, 1000, 3000)
COLUMNS = ('strategy', 'evaluations', 'lower quartile', 'median', 'upper quartile', 'median regret')

flags.adopt_module_key_flags(common)  # so that --help lists them

Curves = dict[str, np.ndarray]
"""Strategy -> the best score so far, float [repeats, evaluations]; NaN as long as all have failed."""


# ---- one search -----------------------------------------------------------------------------------------------------


class _Memory(optuna.storages.InMemoryStorage):
    """A storage that shows the trials of a list, without copies, and the one that is being drawn after them."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []
        self.draft: list[FrozenTrial] = []  # one or none

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        del study_id, deepcopy
        return [trial for trial in (*self.trials, *self.draft) if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        del trial_id  # samplers write to what they draw
        self.draft[0].system_attrs[key] = value


class Replay:
    """A search in a table, asked and told as a study is: a batch sees the scores of those before it, not its own."""

    def __init__(self, space: TableSpace, scores: Mapping[str, float]) -> None:
        self._space, self._scores = space, scores
        self._distributions = study.distributions(space)

    def run(self, sampler: optuna.samplers.BaseSampler, evaluations: int, together: int) -> list[str]:
        """The keys that a search evaluates, in order; fewer where the sampler has nothing new to offer."""
        storage = _Memory()
        name = storage.get_study_name_from_id(storage.create_new_study([StudyDirection.MAXIMIZE]))
        while (start := len(storage.trials)) < evaluations:
            for _ in range(min(together, evaluations - start)):
                if not self._propose(name, sampler, storage):
                    break
            if len(storage.trials) == start:
                break
            for trial in storage.trials[start:]:
                self._score(trial)
        return [trial.user_attrs['key'] for trial in storage.trials]

    def _propose(self, name: str, sampler: optuna.samplers.BaseSampler, storage: _Memory) -> bool:
        """Adds a running trial of a new cell; False if the sampler gives known ones only."""
        known = {trial.user_attrs['key'] for trial in storage.trials}
        for redraw in range(REDRAWS):
            draft = self._trial(len(storage.trials), {}, {}, {study.REDRAW: redraw} if redraw else {})
            storage.draft = [draft]
            seen = optuna.Study(name, storage, sampler)  # each remembers the trials that it has read
            params = self._draw(sampler, seen, draft)
            key = self._space.canonical_key(self._space.from_params(params))
            storage.draft = []
            if key not in known:
                attributes = {'key': key, 'reference': ''}
                storage.trials.append(self._trial(draft.number, params, attributes, draft.system_attrs))
                return True
        return False

    def _draw(self, sampler: optuna.samplers.BaseSampler, seen: optuna.Study, draft: FrozenTrial) -> dict[str, Any]:
        """The parameters of one proposal, asked for as a trial of Optuna does, which draws nothing of single values."""
        sampler.before_trial(seen, draft)
        together = sampler.sample_relative(seen, draft, sampler.infer_relative_search_space(seen, draft))
        found = {name: values[0] for name, values in self._space.choices().items() if len(values) == 1} | together
        return {
            name: found[name] if name in found else sampler.sample_independent(seen, draft, name, distribution)
            for name, distribution in self._distributions.items()
        }

    def _trial(
        self, number: int, params: dict[str, Any], attributes: dict[str, Any], system: dict[str, Any]
    ) -> FrozenTrial:
        kinds = self._distributions if params else {}
        return FrozenTrial(number, TrialState.RUNNING, None, None, None, params, kinds, attributes, system, {}, number)

    def _score(self, trial: FrozenTrial) -> None:
        score = self._scores[trial.user_attrs['key']]
        trial.state = TrialState.COMPLETE if math.isfinite(score) else TrialState.FAIL
        trial.values = [score] if math.isfinite(score) else None


def best_so_far(scores: Sequence[float], evaluations: int) -> np.ndarray:
    """After each evaluation `[evaluations]`; a search that ended early keeps its best."""
    padded = [*scores, *[math.nan] * (evaluations - len(scores))]
    best: np.ndarray = np.fmax.accumulate(np.array(padded))
    return best


def compare(
    space: TableSpace,
    scores: Mapping[str, float],
    strategies: Mapping[str, Mapping[str, Any]],
    *,
    repeats: int,
    evaluations: int,
    together: int,
) -> Curves:
    """The curves of each strategy (name -> settings) under the seeds 0, 1, ..."""
    replay = Replay(space, scores)
    curves = {name: np.full((repeats, evaluations), np.nan) for name in strategies}
    searches = list(itertools.product(strategies, range(repeats)))
    for name, seed in track(searches, 'searches'):
        sampler = samplers.make(name, space, seed=seed, **strategies[name])
        keys = replay.run(sampler, evaluations, together)
        curves[name][seed] = best_so_far([scores[key] for key in keys], evaluations)
    return curves


# ---- what is written ------------------------------------------------------------------------------------------------


def quartiles(curve: np.ndarray) -> np.ndarray:
    """Lower quartile, median and upper quartile over the repeats `[3, evaluations]`; what has no score is the worst."""
    found: np.ndarray = np.quantile(np.nan_to_num(curve, nan=0.0), (0.25, 0.5, 0.75), axis=0)
    return found


def until_found(curve: np.ndarray, target: float) -> np.ndarray:
    """Evaluations of each repeat until its best is at least `target` `[repeats]`; infinity where it never is."""
    reached = curve >= target - 1e-9  # but for rounding
    return np.where(reached.any(1), reached.argmax(1) + 1.0, math.inf)


def as_csv(curves: Curves, best: float) -> str:
    """A row for each strategy and number of evaluations; scores in 0..1."""
    text = io.StringIO()
    text.write(','.join(COLUMNS) + '\n')
    for name, curve in curves.items():
        for at, (low, middle, high) in enumerate(quartiles(curve).T.tolist(), 1):
            text.write(f'{name},{at},{low!r},{middle!r},{high!r},{best - middle!r}\n')
    return text.getvalue()


def as_markdown(curves: Curves, best: float, within: float, facts: Sequence[str], label: str = 'mIoU') -> str:
    """What the comparison depends on, and a row for each strategy."""
    evaluations = next(iter(curves.values())).shape[1]
    after = [number for number in SHOWN_AFTER if number < evaluations] + [evaluations]
    head = [*(f'after {number}' for number in after), f'regret after {evaluations}']
    head += [f'evaluations until within {within:g}', 'searches that get there']
    lines = ['| strategy | ' + ' | '.join(head) + ' |', '|:--|' + '--:|' * len(head)]
    for name, curve in curves.items():
        found = 100 * quartiles(curve)[:, [number - 1 for number in after]]
        cells = [f'{middle:.2f} ({low:.2f} to {high:.2f})' for low, middle, high in found.T]
        needed = until_found(curve, best - within / 100)
        median = float(np.quantile(needed, 0.5, method='higher'))
        cells += [f'{100 * best - found[1, -1]:.2f}', f'{median:.0f}' if math.isfinite(median) else f'> {evaluations}']
        lines.append(f'| {name} | ' + ' | '.join(cells) + f' | {100 * np.isfinite(needed).mean():.0f} % |')
    legend = (
        f'Best {label} in % after so many evaluations: median over the searches, and quartiles.'
        ' Regret is what the median lacks to the best of the table, in points.'
    )
    return '\n'.join([*facts, '', *lines, '', legend, ''])


def draw(curves: Curves, best: float, label: str = 'mIoU') -> Figure:
    """The median of each strategy with a band of quartiles, by evaluations."""
    figure = Figure(figsize=(palette.WIDTH_INCHES, 4.4), layout='constrained')
    axes = figure.add_subplot()
    styles = ((palette.BLUE, '-'), *((colour, line) for colour, line, _ in palette.REFERENCE_STYLES))
    for (name, curve), (colour, line) in zip(curves.items(), itertools.cycle(styles), strict=False):
        low, middle, high = 100 * quartiles(curve)
        at = np.arange(1, len(middle) + 1)
        axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0, step='post')
        for edge in (low, high):
            axes.step(at, edge, where='post', color=colour, lw=0.6, alpha=0.5)
        axes.step(at, middle, where='post', color=colour, ls=line, lw=2.0, label=f'{name} ({middle[-1]:.2f})')
    axes.axhline(100 * best, color=palette.GREY, lw=1.0, label=f'best of the table ({100 * best:.2f})')
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%d'))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set(xlim=(1, len(at)), xlabel='Evaluations', ylabel=f'Best so far ({label} on val, %): median, quartiles')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color=palette.GRID)
    axes.legend(frameon=False, loc='lower right')
    return figure


# ---- the script -----------------------------------------------------------------------------------------------------


def _facts(space: TableSpace, cells: Mapping[str, cell_table.TableCell], together: int, repeats: int) -> list[str]:
    """What the comparison depends on."""
    scores = [cells[key].score for key in space.keys]
    best = max((score, key) for key, score in zip(space.keys, scores, strict=True) if math.isfinite(score))
    rank, apart = space.says(scores)
    failed = sum(not math.isfinite(score) for score in scores)
    return [
        f'- **table**: {len(scores)} cells, {failed} failed; the best has {100 * best[0]:.2f} %: `{best[1]}`',
        f'- **searches**: {repeats} of each strategy, {together} cells at a time',
        f"- **neighbourhoods**: Spearman's correlation between the scores of a cell and its neighbours {rank:.2f}; they"
        f' differ in {apart:.1f} of {len(space.choices())} choices on average',
    ]


def _checked(evaluations: int, size: int) -> int:
    if evaluations > size and EVALUATIONS.present:
        raise InputError(f'--evaluations is {evaluations}; the table has {size} cells')
    return min(evaluations, size)


def main(argv: Sequence[str]) -> None:
    """Reads, searches, writes."""
    del argv
    config = common.CONFIG.value
    if config is None or not TABLE.value or not OUT.value:
        raise InputError('--config, --table and --out are needed; --help explains them')
    if not STRATEGIES.value:
        raise InputError('--strategies is empty; give names as in config.search.sampler')
    cells = cell_table.read(TABLE.value, assembly.make_space(config))
    nearest = min(NEAREST.value, max(1, len(cells) // 4))
    space = TableSpace(assembly.make_space(config), {key: cell.genotype for key, cell in cells.items()}, nearest)
    scores = {key: cell.score for key, cell in cells.items()}
    if not any(map(math.isfinite, scores.values())):
        raise InputError(f'{", ".join(TABLE.value)}: no cell has a score')
    strategies = {name: strategy.sampler_settings(config, name) for name in STRATEGIES.value}
    for name, settings in strategies.items():
        samplers.make(name, space, seed=0, **settings)  # a wrong one is refused before any work
    evaluations, together = _checked(EVALUATIONS.value, space.size), TOGETHER.value or config.search.population
    out = pathlib.Path(OUT.value).expanduser()
    files.make_folder(out, '--out')
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line per search
    curves = compare(space, scores, strategies, repeats=REPEATS.value, evaluations=evaluations, together=together)
    best = max(filter(math.isfinite, scores.values()))
    label = metrics.LABELS[config.search.score]
    text = as_markdown(curves, best, WITHIN.value, _facts(space, cells, together, REPEATS.value), label)
    paths = [files.write(out / 'strategies.md', text), files.write(out / 'strategies.csv', as_csv(curves, best))]
    with files.whole(out / 'strategies.png') as draft:
        draw(curves, best, label).savefig(draft, dpi=150, format='png')
    print(text)
    print('\n'.join(map(str, [*paths, out / 'strategies.png'])))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
