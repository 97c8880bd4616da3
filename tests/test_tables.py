"""Tables from rows: which row is taken for which of the paper's, what is said where there is none."""

import copy
import json

import numpy as np
import pytest

from tests import scripts
from tests.test_experiments import finish

rows, camvid_rows, compare_runs = (scripts.load(name) for name in ('rows', 'camvid_rows', 'compare_runs'))
TABLES = {
    'table1_cityscapes_val': scripts.load('table1_cityscapes_val').published(),
    **{
        name: scripts.load(name).PUBLISHED
        for name in ('table2_cityscapes_test', 'table3_person_part', 'table4_voc_test')
    },
}


def row(miou=0.5, seed=0, **fields):
    """A row of MobileNet-v2 with ASPP on Cityscapes val; more fields with __ for dots."""
    found = {
        **{'dataset': 'cityscapes', 'split': 'val', 'images': 500, 'miou': miou, 'scales': [1.0], 'flip': False},
        **{'config_hash': 'c', 'weights': f'w{seed}', 'commit': 'abc', 'device': 'H100', 'iou': {'road': miou}},
        'training': {'steps': 90_000, 'seed': seed, 'seconds': 60.0},
        'config': {
            'backbone': {'name': 'mobilenet_v2', 'output_stride': 16, 'width': 1.0},
            'context': {'name': 'aspp', 'genotype': 'dpc_top1', 'filters': 256},
            'evaluate': {'export': 'labels'},
        },
    }
    for name, value in fields.items():
        *parents, last = name.split('__')
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    return found


def store(folder, *found):
    for number, one in enumerate(found):
        path = folder / str(number) / 'metrics.json'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))


def test_the_published_numbers_are_those_of_the_paper():
    # arXiv:1809.04184: Tables 1 to 4; the two that a transcription mistypes by the paper's text.
    assert [published.miou for published in TABLES['table1_cityscapes_val']] == [73.97, 75.38, 80.25, 80.85]
    assert [published.miou for published in TABLES['table2_cityscapes_test']] == [81.2, 82.0, 82.1, 82.7]
    assert [published.miou for published in TABLES['table3_person_part']] == [63.57, 64.39, 67.60, 71.34]
    assert [published.miou for published in TABLES['table4_voc_test']] == [85.9, 86.2, 87.8, 87.9, 88.0, 87.9]


def test_a_row_is_taken_for_its_own():
    taken = [rows.reached([row(0.7)], published) for published in TABLES['table1_cityscapes_val']]
    assert taken[0] == '**70.00**; H100, commit abc'
    assert all(text.startswith('not run: `python run.py --config=configs/cityscapes.py') for text in taken[1:])


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('dataset', 'camvid'),
        ('split', 'train'),
        ('images', 6),
        ('scales', [0.5, 1.0]),
        ('flip', True),
        ('config__backbone__output_stride', 8),
        ('config__backbone__name', 'xception_41'),
        ('config__backbone__width', 0.1),
        ('config__context__filters', 8),
        ('config__context__name', 'none'),
    ],
)
def test_a_row_of_another_protocol_is_taken_for_none(field, value):
    other = row(0.7, **{field: value})
    assert all('not run' in rows.reached([other], published) for published in TABLES['table1_cityscapes_val'])


def test_another_cell_is_not_the_released_one():
    cell = row(0.7, config__context__name='dpc', config__context__genotype='runs/cell.json')
    assert 'not run' in rows.reached([cell], TABLES['table1_cityscapes_val'][1])
    assert rows.module_of(cell) == 'DPC of cell.json'


def test_seeds_are_put_together():
    text = rows.reached([row(0.70, 0), row(0.74, 1), row(0.72, 2)], TABLES['table1_cityscapes_val'][0])
    assert text.startswith('**74.00** (mean 72.00 ± 2.00, 3 runs)')


def test_a_test_set_is_scored_by_its_server(tmp_path):
    published = TABLES['table2_cityscapes_test'][-1]
    found = row(None, **{name.replace('.', '__'): value for name, value in published.wanted.items()})
    found['config']['backbone']['name'] = 'xception_71'
    store(tmp_path, found)
    read, faults = rows.find([str(tmp_path)])
    assert faults == []
    assert rows.reached(read, published).startswith('labels are in labels; the server scores them')
    (tmp_path / '0/server.json').write_text('{"miou": 0.827}')
    assert rows.reached(rows.find([str(tmp_path)])[0], published).startswith('**82.70**')


def test_a_damaged_row_is_named_and_hides_no_other(tmp_path):
    store(tmp_path, row(0.7), row(0.6, 1))
    (tmp_path / '0/metrics.json').write_text('{')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/metrics.json').write_text('{"miou": 1}')
    found, faults = rows.find([str(tmp_path), str(tmp_path), '/absent'])
    assert [one['miou'] for one in found] == [0.6]
    for name, fault in zip(('0', 'other'), faults[:2], strict=True):
        assert f'{tmp_path}/{name}/metrics.json is passed over' in fault


@pytest.mark.parametrize('name', TABLES)
def test_each_script_prints_its_table(name, tmp_path):
    code, out, err = finish(f'experiments/{name}.py', '--rows=/absent', f'--markdown={tmp_path / "table.md"}')
    assert (code, err) == (0, '')
    assert 'not run: `python run.py' in out
    assert (tmp_path / 'table.md').read_text() in out
    for published in TABLES[name]:
        assert f'| {published.name} | {published.miou:.2f} |' in out


def test_camvid_rows_are_by_module_and_budget():
    camvid = {'dataset': 'camvid', 'images': 101}
    found = [row(0.4, 0, **camvid), row(0.5, 1, **camvid), row(0.3, 2, images=6, dataset='camvid')]
    text = camvid_rows.table(found)
    assert '| mobilenet_v2, ASPP | 90000 | 2 | 45.00 ± 7.07 | abc | H100 |' in text
    assert 'not run: `python run.py --config=configs/camvid.py' in camvid_rows.table([])


# ---- runs side by side ----------------------------------------------------------------------------------------------


@pytest.fixture
def workdirs(tmp_path):
    """Two modules under two seeds each."""
    found = []
    for name, score in (('aspp', 0.4), ('dpc', 0.5)):
        for seed in (0, 1):
            workdir = tmp_path / f'{name}{seed}'
            (workdir / 'evaluation').mkdir(parents=True)
            fields = {'dataset': 'camvid', 'config__context__name': name, 'weights': f'{name}{seed}'}
            one = row(score + 0.02 * seed, seed, **fields)
            (workdir / 'evaluation/metrics.json').write_text(json.dumps(one))
            records = [{'step': step, 'loss': 2.0 / step, 'learning_rate': 0.1} for step in range(1, 9)]
            records.append({'step': 8, 'miou': one['miou']})
            (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
            found.append(workdir)
    return found


def test_modules_are_compared_under_one_seed(workdirs):
    groups = compare_runs.by_module([compare_runs.read(workdir) for workdir in workdirs])
    text = compare_runs.table(groups)
    assert '| ASPP | 41.00 | 1.41 | 0: 40.00, 1: 42.00 | 1 | H100 |' in text
    assert 'DPC less ASPP under one seed: +10.00 points on average (+10.00, +10.00, standard deviation 0.00).' in text
    assert '| road | 41.00 | 51.00 |' in text


def test_the_script_gathers_rows_and_pictures(workdirs, tmp_path):
    listed = ','.join(map(str, workdirs))
    code, out, err = finish('experiments/compare_runs.py', f'--workdirs={listed}', f'--out={tmp_path / "out"}')
    assert (code, err) == (0, '')
    assert 'DPC less ASPP' in out
    kept = rows.find([str(tmp_path / 'out')])[0]
    assert sorted(one['miou'] for one in kept) == pytest.approx([0.4, 0.42, 0.5, 0.52])
    assert (tmp_path / 'out/curves.png').stat().st_size > 5000
    code, out, err = finish('experiments/compare_runs.py', f'--workdirs={tmp_path}', f'--out={tmp_path / "out"}')
    assert (code, err.count('\n')) == (2, 1)
    assert 'holds no finished training' in err


def test_runs_that_cannot_be_compared_are_refused(workdirs):
    path = workdirs[0] / 'evaluation/metrics.json'
    other = copy.deepcopy(json.loads(path.read_text()))
    del other['training']
    path.write_text(json.dumps(other))
    with pytest.raises(compare_runs.InputError, match='is of no training with scores'):
        compare_runs.read(workdirs[0])
    assert np.isfinite(compare_runs.read(workdirs[1]).row['miou'])
