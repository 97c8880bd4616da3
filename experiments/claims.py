"""Which number of the documents comes from which row in `results/`; `check_readme.py` compares them.

A claim is a phrase of a document with its numbers left open: `{name:format}` stands for one number, and the reader
gives the value of every name in a file of rows. Percentages are read as percentages, times in the unit of their name.
Numbers of the documents that no row holds are in `ELSEWHERE`, each with its source.
"""

import csv
import gzip
import itertools
import json
import pathlib
import re
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from dpc_jax import metrics

Values = dict[str, float]


class Source(NamedTuple):
    """A file below `experiments/results`, and how its rows become named values."""

    path: str
    read: Callable[[pathlib.Path], Values]


class Claim(NamedTuple):
    """Numbers of one phrase; line breaks count as spaces."""

    document: str
    source: Source
    phrase: str  # stands in the document exactly once


class Stated(NamedTuple):
    """Numbers that have no row here."""

    document: str
    phrase: str  # stands in the document exactly once
    origin: str  # where the numbers come from


# ---- readers --------------------------------------------------------------------------------------------------------


def read_cells(path: pathlib.Path) -> Values:
    """A table of cells: known ones by name, the best, medians of the uniform sample with and without a global mean."""
    with gzip.open(path, 'rt', encoding='utf-8') as file:
        rows = [(row['cell'], row['key'], 100 * float(row['score'])) for row in csv.DictReader(file)]
    named = {cell: score for cell, _, score in rows if cell in ('aspp', 'dpc_top1', 'conv1x1')}
    sampled = [(key, score) for cell, key, score in rows if cell.startswith('sample')]
    pooled, others = ([score for key, score in sampled if ('p1x1' in key) == there] for there in (True, False))
    return named | {
        'best': max(score for _, _, score in rows),
        'median': statistics.median(score for _, score in sampled),
        'pooled': statistics.median(pooled),
        'best_pooled': max(pooled),
        'others': statistics.median(others),
        'best_others': max(others),
    }


def read_strategies(path: pathlib.Path) -> Values:
    """Median of the best score of each strategy after so many cells."""
    return {f'{row["strategy"]}_{row["evaluations"]}': 100 * float(row['median']) for row in _table(path)}


def read_ranking(path: pathlib.Path) -> Values:
    """A search: number of sampled cells, its best and worst score, those of the references by name; time."""
    rows = _table(path)
    scores = {row['reference']: 100 * float(row['score']) for row in rows if row['reference'] and row['score']}
    sampled = [row for row in rows if not row['reference']]
    found = [100 * float(row['score']) for row in sampled if row['score']]
    seconds = [float(row['seconds']) for row in rows]
    return scores | {
        'cells': len(sampled),
        'best': max(found),
        'worst': min(found),
        'aspp_ahead': scores['aspp'] - scores['conv1x1'],
        'minutes': sum(seconds) / 60,
        'seconds_each': statistics.fmean(seconds),
    }


def read_scores(path: pathlib.Path) -> Values:
    """Cells under several seeds: the mean of each, and deviations and correlation over the seeds."""
    scores = _scores(path)
    stds = [statistics.stdev(found) for found in scores.values()]
    seeds = np.array(list(scores.values()))
    return {f'{cell.replace(" ", "_")}_mean': statistics.fmean(found) for cell, found in scores.items()} | {
        'std_max': max(stds),
        'std_mean': statistics.fmean(stds),
        'std_within': statistics.fmean(std**2 for std in stds) ** 0.5,
        'std_between': statistics.stdev(statistics.fmean(found) for found in scores.values()),
        'spearman': metrics.spearman(seeds[:, 0], seeds[:, 1]),
    }


def read_reach(path: pathlib.Path) -> Values:
    """`read_scores`, with the range of the convolutions and the gap from no context to ASPP."""
    values = read_scores(path)
    convolutions = [value for name, value in values.items() if name.startswith('sep_')]
    gap = values['aspp_mean'] - values['no_context_mean']
    return values | {'sep_min': min(convolutions), 'sep_max': max(convolutions), 'aspp_ahead': gap}


def read_noise(path: pathlib.Path) -> Values:
    """`read_scores`, with the range of the two cells that rank last, and of all others."""
    scores = _scores(path)
    ranked = sorted((cell for cell in scores if cell.startswith('rank ')), key=lambda cell: int(cell.split()[1]))
    poor = [score for cell in ranked[-2:] for score in scores[cell]]
    good = [score for cell, found in scores.items() if cell not in ranked[-2:] for score in found]
    ranges = {'poor_min': min(poor), 'poor_max': max(poor), 'good_min': min(good), 'good_max': max(good)}
    return read_scores(path) | ranges


def read_training(path: pathlib.Path) -> Values:
    """The cell and ASPP trained in whole networks under several seeds: mean, sample deviation, differences, time."""
    rows = _table(path)
    scores = {
        module: {row['seed']: 100 * float(row['miou']) for row in rows if row['module'] == module}
        for module in ('dpc-dpc_top1', 'aspp')
    }
    cell, aspp = scores['dpc-dpc_top1'], scores['aspp']
    ahead = [aspp[seed] - cell[seed] for seed in cell]
    minutes = [float(row['seconds']) / 60 for row in rows]
    return {
        'cell_mean': statistics.fmean(cell.values()),
        'cell_std': statistics.stdev(cell.values()),
        'aspp_mean': statistics.fmean(aspp.values()),
        'aspp_std': statistics.stdev(aspp.values()),
        'ahead_mean': statistics.fmean(ahead),
        'ahead_min': min(ahead),
        'seeds': len(cell),
        'steps': float(rows[0]['steps']),
        'minutes_min': min(minutes),
        'minutes_max': max(minutes),
    }


def read_modules(path: pathlib.Path) -> Values:
    """Whole networks by genotype, or by context where it has none: the mean mIoU over the seeds.

    And 'one_less_other', the mean difference under the seeds that two share, with 'one_less_other_half': half of the
    interval of 95 % (Student's t).
    """
    scores: dict[str, dict[str, float]] = {}
    for row in _table(path):
        scores.setdefault(row['module'].rpartition('-')[2], {})[row['seed']] = 100 * float(row['miou'])
    values: Values = {name: statistics.fmean(found.values()) for name, found in scores.items()}
    for one, other in itertools.permutations(scores, 2):
        shared = [scores[one][seed] - scores[other][seed] for seed in scores[one] if seed in scores[other]]
        if len(shared) > 1:
            name, t = f'{one}_less_{other}', stats.t.ppf(0.975, len(shared) - 1)
            values |= {
                name: statistics.fmean(shared),
                f'{name}_half': t * statistics.stdev(shared) / len(shared) ** 0.5,
            }
    return values


def read_costs(path: pathlib.Path) -> Values:
    """Modules as 'dpc320_params', networks as 'xception_71_dpc_decoder_macs'; published values with '_published'.

    Params of a module in units, MAdds in billions, published Params in millions, seconds as they are.
    """
    report = json.loads(path.read_text())
    values: Values = {}
    for row in report['modules']:
        values |= {f'{row["module"].lower()}{row["features"][-1]}_{name}': x for name, x in _module(row).items()}
    for channels in (320, 2048):
        for name in ('published', 'rule', 'params', 'projection', 'macs_published', 'macs'):
            cell, aspp = (values[f'{module}{channels}_{name}'] for module in ('dpc', 'aspp'))
            values[f'ratio{channels}_{name}'] = 100 * cell / aspp
    for row in report['models']:
        context = {'image level + 1x1': 'image_level'}.get(row['context'], row['context'].lower())
        name = f'{row["backbone"]}_{context}{"_decoder" * row["decoder"]}'
        values |= {f'{name}_trainable': row['trainable'], f'{name}_macs': row['macs'] / 1e9}
        if row['macs_published']:
            values[f'{name}_macs_published'] = row['macs_published'] / 1e9
    return values


def _module(row: dict[str, Any]) -> Values:
    return {
        'published': row['params_published'] / 1e6,
        'rule': row['params_by_the_rule'] / 1e6,
        'params': row['params'],
        'projection': row['params_with_projection'],
        'macs_published': row['macs_published'] / 1e9,
        'macs': row['macs'] / 1e9,
        'off': 100 * (row['macs'] / row['macs_published'] - 1),
        'macs_projection': row['macs_with_projection'] / 1e9,
        'seconds': row['seconds'],
    }


def read_bench(path: pathlib.Path) -> Values:
    """The table that `bench_population.py` prints: steps per second, seconds, seconds of compiling, GiB."""
    text = path.read_text()
    values: Values = {}
    for name, *cells in re.findall(r'^(population|static|torch) +(\S+) +(\S+) +\S+ +(\S+) ', text, re.MULTILINE):
        values |= {f'{name}_{what}': float(x) for what, x in zip(('rate', 'seconds', 'compile'), cells, strict=True)}
    return values | {'gib': float(re.findall(r'peak memory (\S+) GiB', text)[0])}


def read_aux_bench(path: pathlib.Path) -> Values:
    """How many times as long PyTorch takes for decoders of auxiliary cells; seconds until the first step."""
    found = re.findall(r'engine: (\d+) s.*geometric mean (\S+), least (\S+),', path.read_text(), re.DOTALL)[0]
    return dict(zip(('first', 'mean', 'least'), map(float, found), strict=True))


def read_estimate(path: pathlib.Path) -> Values:
    """The estimate for an H100 that `bench_population.py --estimate=h100` prints."""
    text = path.read_text()
    patterns = {'ms': r'(\S+) ms per candidate', 'gib': r'(\S+) GiB per candidate', 'hours': r'each: ([\d,]+) hours'}
    return {name: float(re.findall(pattern, text)[0].replace(',', '')) for name, pattern in patterns.items()}


def read_study(path: pathlib.Path) -> Values:
    """The tables that `bench_study.py` prints, as 'sqlite_near_best_small'; what computes alone with '_cpu', in ms.

    'tpe_small_s' and 'tpe_large_s' are the seconds for which Optuna's TPE computes.
    """
    values: Values = {}
    row = re.compile(r'^\| (\w+) \| (\S+) ' + r'\| (\S+) \((\S+)\) ' * 3, re.MULTILINE)
    for storage, sampler, *cells in row.findall(path.read_text()):
        names = ('small', 'small_cpu', 'large', 'large_cpu', 'ratio', 'ratio_cpu')
        values |= {f'{storage}_{sampler}_{name}': float(x) for name, x in zip(names, cells, strict=True)}
    tpe = {f'tpe_{size}_s': values[f'journal_optuna.TPESampler_{size}_cpu'] / 1000 for size in ('small', 'large')}
    return values | tpe


def _scores(path: pathlib.Path) -> dict[str, list[float]]:
    return {row.pop('cell'): [100 * float(score) for score in row.values()] for row in _table(path)}


def _table(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


# ---- what the documents say -----------------------------------------------------------------------------------------

SCENES = Source('scenes_search/ranking.csv', read_ranking)
REACH = Source('scenes_search/reach.csv', read_reach)
CAMVID = Source('camvid_search/ranking.csv', read_ranking)
NOISE = Source('camvid_search/noise.csv', read_noise)
TRAINING = Source('camvid_training/rows.csv', read_training)
CAMVID_AUX = Source('camvid_aux/rows.csv', read_modules)
COSTS = Source('table1_modules.json', read_costs)
BENCH = Source('bench_population_2cores.txt', read_bench)
AUX_BENCH = Source('bench_aux_cells_2cores.txt', read_aux_bench)
ESTIMATE = Source('bench_population_h100_estimate.txt', read_estimate)
STUDY = Source('study.md', read_study)
TABLE = Source('scenes_table/cells.csv.gz', read_cells)
STRATEGIES = Source('scenes_table/strategies.csv', read_strategies)

STUDY_ROW = (
    ' | {N_small:.1f} ({N_small_cpu:.1f}) | {N_large:.1f} ({N_large_cpu:.1f}) | {N_ratio:.2f} ({N_ratio_cpu:.2f}) |'
)
STUDY_ROWS = [
    (f'| {storage} | {sampler}', STUDY_ROW, f'{storage}_{sampler}')
    for storage in ('journal', 'sqlite', 'postgresql')
    for sampler in ('near_best', 'uniform')
]

MODULE_ROW = (
    ' | {N_published:.2f}M | {N_rule:.2f}M | {N_params:,} | {N_projection:,} | {N_macs_published:.2f}B'
    ' | {N_macs:.2f}B | {N_off:+.2f} % | {N_macs_projection:.2f}B |'
)
RATIO_ROW = (
    ' | {N_published:.0f} % | {N_rule:.0f} % | {N_params:.0f} % | {N_projection:.0f} % | {N_macs_published:.0f} %'
    ' | {N_macs:.0f} % |'
)
COST_ROWS = [
    (f'| 65x129x{channels} ({backbones}) | {module.upper()}', MODULE_ROW, f'{module}{channels}')
    for channels, backbones in ((320, 'mobilenet_v2'), (2048, 'xception_65, xception_71'))
    for module in ('aspp', 'dpc')
] + [(f'| DPC, {channels} channels', RATIO_ROW, f'ratio{channels}') for channels in (320, 2048)]

CLAIMS = (
    Claim(
        'README.md',
        CAMVID_AUX,
        'those of the authors, trained in full ({camvid_best:.2f} % mIoU to {arch2:.2f} of arch2)',
    ),
    Claim(
        'docs/search.md',
        CAMVID_AUX,
        '240 steps by one recipe: {camvid_best:.2f} % mIoU, arch2 {arch2:.2f}, arch1 {arch1:.2f}, arch0 {arch0:.2f},'
        ' ASPP {aspp:.2f}, the released cell {dpc_top1:.2f}',
    ),
    Claim(
        'docs/search.md',
        CAMVID_AUX,
        'is better by {camvid_best_less_arch2:.2f} ± {camvid_best_less_arch2_half:.2f} points (95 %)',
    ),
    Claim(
        'docs/search.md', TABLE, 'Half of the uniform sample scores below {median:.2f} % mIoU; ASPP has {aspp:.2f} %'
    ),
    Claim(
        'docs/search.md',
        TABLE,
        'images, {dpc_top1:.2f} %, no context {conv1x1:.2f} %, and the best, one step from the released cell,'
        ' {best:.2f} %',
    ),
    Claim(
        'docs/search.md',
        TABLE,
        'reach a median of {pooled:.2f} and a best of {best_pooled:.2f} %, the others {others:.2f} and'
        ' {best_others:.2f} %',
    ),
    *(
        Claim(
            'docs/search.md',
            STRATEGIES,
            f'| {name} | {{{name}_30:.2f}} | {{{name}_100:.2f}} | {{{name}_300:.2f}} |',
        )
        for name in ('uniform', 'near_best', 'evolution')
    ),
    Claim(
        'README.md',
        SCENES,
        'Of its {cells:.0f} cells the best scores {best:.2f} % mIoU, ASPP {aspp:.2f}, the released cell {dpc_top1:.2f},'
        ' and a cell without context {conv1x1:.2f}',
    ),
    Claim(
        'README.md',
        COSTS,
        '| {dpc320_published:.2f} M / {dpc2048_published:.2f} M | {dpc320_params:,} / {dpc2048_params:,} |',
    ),
    Claim(
        'README.md',
        COSTS,
        '| {dpc320_macs_published:.2f} B / {dpc2048_macs_published:.2f} B | {dpc320_macs:.3f} B / {dpc2048_macs:.3f} B',
    ),
    Claim(
        'README.md',
        COSTS,
        '(official graph) {xception_71_dpc_decoder_trainable:,}, {xception_65_dpc_decoder_trainable:,},'
        ' {mobilenet_v2_dpc_decoder_trainable:,} |',
    ),
    Claim('README.md', CAMVID, '| {cells:.0f}, on 2 CPU cores in {minutes:.0f} minutes (CamVid) |'),
    Claim(
        'README.md',
        CAMVID,
        '| {best:.2f} / {aspp:.2f} / {dpc_top1:.2f} / {conv1x1:.2f} % (CamVid, 64 filters, 500 steps, seed 0)',
    ),
    Claim(
        'README.md',
        TRAINING,
        '| {cell_mean:.2f} ± {cell_std:.2f} / {aspp_mean:.2f} ± {aspp_std:.2f} % (CamVid val, {seeds:.0f} seeds,'
        ' {steps:.0f} steps',
    ),
    Claim('docs/search.md', CAMVID, 'this trained {cells:.0f} cells of 64 filters'),
    Claim('docs/search.md', CAMVID, '{minutes:.0f} minutes of evaluation ({seconds_each:.0f} s a cell;'),
    Claim(
        'docs/search.md',
        CAMVID,
        'The best cell scores {best:.2f} % mIoU, ASPP {aspp:.2f}, the released cell {dpc_top1:.2f}, a cell without'
        ' context {conv1x1:.2f}, and the worst sampled cell {worst:.2f}.',
    ),
    Claim(
        'docs/search.md',
        NOISE,
        'between seeds of one cell is {std_within:.2f} points, that between these cells {std_between:.2f}, and'
        " Spearman's correlation between the two seeds is {spearman:.2f}.",
    ),
    Claim(
        'docs/search.md',
        NOISE,
        'good cells ({good_min:.2f} to {good_max:.2f} %) from the two worst ({poor_min:.2f} to {poor_max:.2f} %)',
    ),
    Claim(
        'docs/search.md',
        REACH,
        'No context scores {no_context_mean:.1f} % mIoU, one 3x3 convolution of any rate {sep_min:.1f} to'
        ' {sep_max:.1f}, pooling of the whole map {pool_1x1_mean:.1f}, the released cell {dpc_top1_mean:.1f}, and ASPP'
        ' {aspp_mean:.1f}.',
    ),
    Claim('docs/search.md', REACH, 'is at most {std_max:.2f} points, and {std_mean:.2f} on average.'),
    Claim('docs/search.md', SCENES, 'the gap between no context and ASPP is {aspp_ahead:.1f} points'),
    Claim('docs/search.md', REACH, 'points instead of {aspp_ahead:.1f}.'),
    *(Claim('docs/search.md', STUDY, start + row.replace('{N_', f'{{{name}_')) for start, row, name in STUDY_ROWS),
    Claim('docs/search.md', STUDY, 'computes for {tpe_small_s:.2f} s per candidate at 1,000 candidates'),
    Claim('docs/search.md', STUDY, 'and for {tpe_large_s:.1f} s at 28,000.'),
    Claim('docs/training.md', TRAINING, 'A run has {steps:.0f} steps'),
    Claim('docs/training.md', TRAINING, 'took {minutes_min:.0f} to {minutes_max:.0f} minutes on one core'),
    Claim(
        'docs/training.md',
        TRAINING,
        'The cell reaches {cell_mean:.2f} ± {cell_std:.2f} % mIoU and ASPP {aspp_mean:.2f} ± {aspp_std:.2f} %, which'
        ' leads by {ahead_mean:.2f} points on average and by at least {ahead_min:.2f} under each',
    ),
    *(Claim('docs/costs.md', COSTS, start + row.replace('{N_', f'{{{name}_')) for start, row, name in COST_ROWS),
    Claim('docs/costs.md', COSTS, 'give {aspp320_published:.2f}M and {aspp2048_published:.2f}M'),
    Claim(
        'docs/costs.md',
        COSTS,
        'takes (one call each) {dpc320_seconds:.3f} s on 320 channels and {dpc2048_seconds:.3f} s on 2048,'
        ' ASPP {aspp320_seconds:.3f} s and {aspp2048_seconds:.3f} s.',
    ),
    Claim(
        'docs/costs.md',
        COSTS,
        '({xception_71_dpc_decoder_macs_published:.2f}B for Xception-71 with cell and decoder,'
        ' {xception_65_aspp_decoder_macs_published:.2f}B for Xception-65 with ASPP,'
        ' {mobilenet_v2_image_level_macs_published:.2f}B for MobileNet-v2)',
    ),
    Claim(
        'docs/costs.md',
        COSTS,
        'here they are {xception_71_dpc_decoder_macs:.2f}B, {xception_65_aspp_decoder_macs:.2f}B and'
        ' {mobilenet_v2_image_level_macs:.2f}B.',
    ),
    Claim(
        'docs/speed.md',
        BENCH,
        'chunk 1 | {population_rate:.2f} | {population_seconds:.3f} | {population_compile:.1f} s, once for a search |',
    ),
    Claim(
        'docs/speed.md',
        BENCH,
        'one at a time | {static_rate:.2f} | {static_seconds:.3f} | {static_compile:.1f} s for every cell |',
    ),
    Claim('docs/speed.md', BENCH, 'eager PyTorch | {torch_rate:.2f} | {torch_seconds:.3f} |'),
    Claim('README.md', ESTIMATE, '| {hours:.0f} H100-hours, estimated'),
    Claim(
        'README.md', BENCH, 'cores: {population_seconds:.3f} s per step of a cell, eager PyTorch {torch_seconds:.3f} s'
    ),
    Claim('docs/speed.md', AUX_BENCH, '{mean:.2f} times as long in the geometric mean, and {least:.2f} times'),
    Claim('docs/speed.md', AUX_BENCH, 'its first step was done after {first:.0f} s in that run'),
    Claim('docs/speed.md', ESTIMATE, 'costs an H100 {ms:.2f} ms by what'),
    Claim('docs/speed.md', ESTIMATE, 'memory is {gib:.2f} GiB per candidate'),
    Claim('docs/speed.md', ESTIMATE, 'steps each would then take {hours:.0f}'),
    Claim('docs/speed.md', BENCH, "peak memory of the engine's part was {gib:.2f} GiB"),
    Claim(
        'experiments/README.md',
        TRAINING,
        'cell {cell_mean:.2f} ± {cell_std:.2f}, ASPP {aspp_mean:.2f} ± {aspp_std:.2f} % mIoU ({steps:.0f} steps)',
    ),
)

PAPER = 'arXiv:1809.04184'
BY_HAND = 'measured by hand; no file of results/ holds it'
ELSEWHERE = (
    Stated('README.md', '≥ 3.11', 'a version'),
    Stated('README.md', 'took 5.4 minutes on 2 idle cores (commit c1b8879), and 7.6', f'`time make search`, {BY_HAND}'),
    Stated('README.md', 'gave 50.03, 48.24, 48.87, 44.35', f'`make search` in a fresh clone, {BY_HAND}'),
    Stated('README.md', 'and 46.33, 46.90, 44.67, 42.85', f'`make search` in a fresh clone, {BY_HAND}'),
    Stated('README.md', '4.2·10¹¹', f'{PAPER}, §3.1'),
    Stated('README.md', '75.38 / 73.97 %', f'{PAPER}, Table 1'),
    Stated('docs/checkpoints.md', 'said to score 80.31 % on val', "the official model zoo's table"),
    Stated('docs/data.md', 'takes 10 to 15 s and 1.6 GB', BY_HAND),
    Stated('docs/search.md', 'MobileNet-v2 (1.0, 224)', 'the name of the network'),
    Stated('docs/search.md', 'two times 0.25 GB for 20 steps', '20 * 8 * 49 * 49 * 320 values of 2 bytes'),
    Stated('docs/search.md', 'in 4 views are 18 GB', '4 * 2975 * 49 * 49 * 320 values of 2 bytes'),
    Stated(
        'docs/speed.md',
        'gives 65 images/s from the folder and from a pack; the step takes 5.5 images/s, so the pipeline keeps up 11.8'
        ' times over. An image takes 2.6 ms in one thread, 69 % of it decoding.',
        f'experiments/bench_input.py on 2 CPU cores, {BY_HAND}',
    ),
    Stated(
        'docs/speed.md',
        'took 0.688 s a candidate-step on the device and 0.727 s from disk by the fastest, 0.791 and 0.798 s by the'
        ' mean',
        'experiments/results/bench_stream_2cores.txt',
    ),
    Stated('docs/speed.md', 'needed 3.94 ms', 'the same count of the program of commit 674e173'),
    Stated('docs/speed.md', 'instead of 0.46', 'the same count of the program of commit 674e173'),
    Stated('docs/speed.md', 'after 61 s in another', BY_HAND),
    Stated('docs/speed.md', 'are scaled, padded and cut in 10 ms', BY_HAND),
    Stated('docs/training.md', 'by 0.7 % between 1 and 2 devices (jax 0.12)', BY_HAND),
    Stated('docs/training.md', '0.75 to 0.85 s instead of 1.37, and 0.75 GiB instead of 1.27', f'batch 8, {BY_HAND}'),
    Stated('docs/training.md', '(1.09 s instead of 0.71', BY_HAND),
    Stated('experiments/README.md', '0.25M, 0.36M, 1.59M, 0.81M; 2.82B, 3.00B, 18.12B, 6.84B', f'{PAPER}, Table 1'),
    Stated('experiments/README.md', 'ρ 0.36 and 0.47', f'{PAPER}, §4.2'),
    Stated('experiments/README.md', '75.38 against 73.97 % mIoU', f'{PAPER}, Table 1'),
    Stated('experiments/README.md', '73.97, 75.38, 80.25, 80.85 % mIoU', f'{PAPER}, Table 1'),
    Stated('experiments/README.md', '82.7 %', f'{PAPER}, Table 2'),
    Stated('experiments/README.md', '71.34 %', f'{PAPER}, Table 3'),
    Stated('experiments/README.md', '87.9 %', f'{PAPER}, Table 4'),
    Stated('experiments/README.md', '80.31 % mIoU', "the official model zoo's table"),
    Stated('experiments/README.md', '86.5, 87.0, 87.1 %; AP 0.658, 0.659, 0.659', 'arXiv:1810.10804, Table 2'),
    Stated('experiments/README.md', 'about 78, 77, 77 % mIoU', 'arXiv:1810.10804, quoted from memory'),
    Stated('experiments/README.md', 'RMSE about 0.52 m', 'arXiv:1810.10804, quoted from memory'),
    Stated('experiments/README.md', 'PCKh@0.5 ', 'the name of a measure'),
    Stated('docs/tasks.md', '`Mean@0.1`', 'the name of a measure'),
)
