"""What do parts of the recipe of a proxy bring? All combinations of some settings, on the same cells.

  python experiments/ablations.py --config=configs/scenes_aux_search.py --workdir=runs/ablations --cells=sample:30 \\
    --factors="aux:cell.auxiliary=cell|conv|none;distillation:proxy.distillation=0.3|0.0;Polyak:proxy.polyak=0.9|0.0" \\
    --further="second stage:tuning.steps=40;five times as long:proxy.steps=1200" \\
    --config.teacher.checkpoint=runs/teacher/weights

`--factors` are `NAME:FIELD=VALUE|VALUE`; the last value of each is what it is compared with. All combinations of these
values score all cells (`--cells` as in evaluate_cells.py; equal ones count once). What a value brings is the difference
of a cell's scores, averaged over the combinations of the other factors; the table has its mean over the cells with an
interval of 95 % (Student's t over cells). Where a value changes no score at all, such as the weight of a teacher that
there is not, the table says so. `--further` are other ways to score the cells, as `--variants` of proxy_fidelity.py,
each with its rank correlation with the first combination: does a cell that is good early stay good?

Each combination has a folder of its own below the work folder and what is finished is kept: the same command goes on
after any stop. Writes `ablations.csv` (a row for each cell), `ablations.md` and `ablations.png` into `--out`.
"""

import csv
import dataclasses
import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import app, flags
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from dpc_jax import assembly, cell_files, command_line, files, metrics, palette
from dpc_jax.base import Genotype, InputError
from dpc_jax.scores import check_cells
from experiments import common, variants
from experiments.correlations import LEVEL, correlation, spearman

CELLS = flags.DEFINE_list('cells', ['sample:30'], 'Which cells; see evaluate_cells.py.')
FACTORS = flags.DEFINE_string('factors', '', '"NAME:FIELD=VALUE|VALUE;NAME:..."; the last value is compared with.')
FURTHER = flags.DEFINE_string('further', '', 'Other ways to score the cells: "NAME:FIELD=VALUE,FIELD=VALUE;NAME:..."')
OUT = flags.DEFINE_string('out', '', 'Folder for tables and plot; by default ablations in the work folder.')

flags.adopt_module_key_flags(common)  # so that --help lists them


@dataclasses.dataclass(frozen=True)
class Factor:
    """A field and its values; the last is what the others are compared with."""

    name: str
    field: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a value of a factor brings over the last one."""

    factor: Factor
    value: Any
    gains: Float[np.ndarray, ' n']  # of the cells, in score 0..1

    @property
    def mean(self) -> float:
        return float(self.gains.mean())

    @property
    def half(self) -> float:
        """Of the interval."""
        return float(stats.sem(self.gains) * stats.t.ppf((1 + LEVEL) / 2, len(self.gains) - 1))


Table = Float[np.ndarray, 'n *levels']
"""Scores of the cells by the values of each factor."""


# ---- what is asked for ----------------------------------------------------------------------------------------------


def read_factors(text: str) -> list[Factor]:
    """The factors of --factors; InputError for anything else, or a name or field twice."""
    found: list[Factor] = []
    for part in filter(None, (part.strip() for part in text.split(';'))):
        name, colon, rest = (word.strip() for word in part.partition(':'))
        field, equals, values = (word.strip() for word in rest.partition('='))
        levels = tuple(variants.value_of(value.strip()) for value in variants.split(values, '|'))
        if (
            not (name and colon and field and equals)
            or '' in levels
            or len(set(map(str, levels))) < max(2, len(levels))
        ):
            raise InputError(
                f"--factors has '{part}'; each is NAME:FIELD=VALUE|VALUE with two or more different values"
            )
        if any(name == other.name or field == other.field for other in found):
            raise InputError(f"--factors has '{name}' or '{field}' twice")
        found.append(Factor(name, field, levels))
    if not found:
        raise InputError('--factors is empty; it is "NAME:FIELD=VALUE|VALUE;NAME:..."')
    return found


def combinations(factors: Sequence[Factor]) -> dict[str, dict[str, Any]]:
    """Name -> fields of all combinations, in the order of the values, the last factor the fastest."""
    found = {}
    for values in itertools.product(*(factor.values for factor in factors)):
        name = ', '.join(f'{factor.name} {value}' for factor, value in zip(factors, values, strict=True))
        found[name] = {factor.field: value for factor, value in zip(factors, values, strict=True)}
    return found


def scored(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    ways: Mapping[str, variants.Fields],
    cells: Sequence[Genotype],
) -> dict[str, Float[np.ndarray, ' n']]:
    """The scores of the cells by each of these ways; a cell that failed has NaN."""
    found = {}
    for number, (name, fields) in enumerate(ways.items(), 1):
        print(f'{number} of {len(ways)}: {name}')
        prepared = variants.prepare(variants.with_fields(config, name, fields), workdir, name)
        found[name] = prepared.evaluate(list(cells)).scores()[:, 0]
    return found


# ---- statistics -----------------------------------------------------------------------------------------------------


def effects(factors: Sequence[Factor], table: Table) -> list[Effect]:
    """What each value brings over the last of its factor, averaged over the combinations of the others."""
    found = []
    for axis, factor in enumerate(factors, 1):
        by_value = np.moveaxis(table, axis, 1)
        by_value = by_value.reshape(*by_value.shape[:2], -1).mean(2)  # [n, values]
        for place, value in enumerate(factor.values[:-1]):
            found.append(Effect(factor, value, by_value[:, place] - by_value[:, -1]))
    return found


# ---- what is written ------------------------------------------------------------------------------------------------


def as_csv(keys: Sequence[str], scores: Mapping[str, Float[np.ndarray, ' n']]) -> str:
    """A row for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['cell', *scores])
    for place, key in enumerate(keys):
        writer.writerow([key, *(float(column[place]) for column in scores.values())])
    return text.getvalue()


def correlations(first: Float[np.ndarray, ' n'], further: Mapping[str, Float[np.ndarray, ' n']]) -> dict[str, str]:
    """Name -> Spearman's ρ with the first scores, and its interval."""
    return {name: str(correlation(spearman, first, scores)) for name, scores in further.items()}


def as_markdown(
    found: Sequence[Effect],
    scores: Mapping[str, Float[np.ndarray, ' n']],
    further: Mapping[str, Float[np.ndarray, ' n']],
    failed: int,
    label: str,
) -> str:
    """What each value brings, the mean of each combination, and the rank correlations."""
    count = len(found[0].gains)
    lines = [
        f'{label} in points, {count} cells'
        + (f' ({failed} failed somewhere and are left out)' * bool(failed))
        + '; gains with an interval of 95 % over cells.\n',
        '| factor | value | over | mean gain | cells that gain |',
        '|:--|:--|:--|--:|--:|',
    ]
    for one in found:
        share = (one.gains > 0).mean()
        gain = f'{100 * one.mean:+.2f} ± {100 * one.half:.2f}' if one.gains.any() else 'no score differs'
        lines.append(f'| {one.factor.name} | {one.value} | {one.factor.values[-1]} | {gain} | {share:.0%} |')
    lines += ['', f'| scored with | mean {label}, % | standard deviation over cells |', '|:--|--:|--:|']
    for name, column in {**scores, **further}.items():
        lines.append(f'| {name} | {100 * np.nanmean(column):.2f} | {100 * np.nanstd(column, ddof=1):.2f} |')
    if further:
        first = next(iter(scores))
        lines += ['', f"| against: {first} | Spearman's ρ (95 %) |", '|:--|:--|']
        lines += [f'| {name} | {rho} |' for name, rho in correlations(scores[first], further).items()]
    return '\n'.join(lines) + '\n'


def draw(
    found: Sequence[Effect],
    first: tuple[str, Float[np.ndarray, ' n']],
    further: Mapping[str, Float[np.ndarray, ' n']],
    label: str,
) -> Figure:
    """The gains with their intervals, a dot for each cell; and each further score against the first."""
    figure = Figure(figsize=(4.6 * (1 + len(further)), 4.2), layout='constrained')
    panels = np.atleast_1d(figure.subplots(1, 1 + len(further), squeeze=False)[0])
    for row, one in enumerate(found):
        panels[0].plot(100 * one.gains, [row + 0.18] * len(one.gains), '|', color=palette.GREY, ms=7)
        panels[0].errorbar(100 * one.mean, row, xerr=100 * one.half, fmt='o', color=palette.BLUE, ms=6, lw=1.6)
    names = [f'{one.factor.name} {one.value}\nover {one.factor.values[-1]}' for one in found]
    panels[0].set_yticks(range(len(found)), names)
    panels[0].invert_yaxis()
    panels[0].axvline(0, color=palette.INK, lw=0.8)
    panels[0].set(xlabel=f'Gain in {label}, points\n(bar: 95 %; strokes: cells)')
    rhos = correlations(first[1], further)
    for axes, (name, scores) in zip(panels[1:], further.items(), strict=True):
        axes.plot(100 * first[1], 100 * scores, 'o', color=palette.BLUE, ms=5)
        axes.set(xlabel=f'{first[0]} ({label}, %)', ylabel=f'{name} ({label}, %)')
        axes.xaxis.label.set_size(8)
        axes.set_title(f"Spearman's ρ {rhos[name]}", fontsize=10)
    common.tidy(*panels)
    return figure


def main(argv: Sequence[str]) -> None:
    """Scores and writes."""
    del argv
    factors = read_factors(FACTORS.value)
    ways = combinations(factors)
    others = variants.read(FURTHER.value, '--further', taken=tuple(ways))
    config, workdir = common.config_and_workdir()
    for name, fields in (ways | others).items():  # before the long work
        assembly.check(variants.with_fields(config, name, fields, '--factors or --further'))
    space = assembly.make_space(config)
    listed = cell_files.read_cells(CELLS.value, space, seed=config.seed)
    cells = list({space.canonical_key(cell.genotype): cell.genotype for cell in listed}.values())
    check_cells(space, cells)
    if len(cells) < 3:
        raise InputError(f'--cells names {len(cells)} different cells; at least 3 are needed')
    scores, further = (scored(config, workdir, of, cells) for of in (ways, others))
    table = np.stack(list(scores.values()), 1).reshape(len(cells), *(len(factor.values) for factor in factors))
    sound = np.isfinite(table.reshape(len(cells), -1)).all(1)
    if sound.sum() < 3:
        raise InputError(f'only {sound.sum()} of {len(cells)} cells have a score with every combination')
    found, label = effects(factors, table[sound]), metrics.LABELS[config.search.score]
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else workdir / 'ablations'
    files.make_folder(out, '--out')
    text = as_markdown(found, scores, further, int((~sound).sum()), label)
    keys = [space.canonical_key(cell) for cell in cells]
    paths = [
        files.write(out / 'ablations.csv', as_csv(keys, scores | further)),
        files.write(out / 'ablations.md', text),
        out / 'ablations.png',
    ]
    with files.whole(paths[-1]) as draft:
        draw(found, next(iter(scores.items())), further, label).savefig(draft, dpi=150, format='png')
    print(text)
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
