"""The tables of the paper beside rows of evaluations: which row is taken for which, and what is said of it."""

import json
import pathlib
import re

import forged
import pytest

from dpc_jax import provenance
from dpc_jax.base import InputError
from experiments import (
    camvid_rows,
    paper_table,
    rows,
    table1_cityscapes_val,
    table2_cityscapes_test,
    table3_person_part,
    table4_voc_test,
)
from tests import forks

ROOT = pathlib.Path(__file__).resolve().parent.parent
COSTS = json.loads(table1_cityscapes_val.COSTS.read_text())
TABLES = {
    'table1_cityscapes_val': table1_cityscapes_val.table(COSTS),
    'table2_cityscapes_test': table2_cityscapes_test.table(),
    'table3_person_part': table3_person_part.table(),
    'table4_voc_test': table4_voc_test.table(),
}
MOBILE_DPC, XCEPTION_DPC = (TABLES['table1_cityscapes_val'].entries[index] for index in (1, 3))
HERE = [(name, index) for name, table in TABLES.items() for index, item in enumerate(table.entries) if item.wanted]


@pytest.fixture(autouse=True)
def _cause(monkeypatch):
    monkeypatch.setattr(provenance, 'commit', lambda: 'c0ffee')


def row_of(item, miou, *, seed=0, images=None, config=None, **others):
    """A row as the last command of an entry makes it, but for `config`: fields with other values."""
    made, _ = forged.config_of(item.commands[-1])
    made.update_from_flattened_dict(config or {})
    return forged.row(made, images or item.wanted[0].images, miou, seed=seed, **others)


def read(tmp_path, *found):
    for number, one in enumerate(found):
        forged.write(tmp_path / f'run{number}/evaluation', one)
    return rows.read([str(tmp_path)])


def lines(text):
    """The cells of the table's rows."""
    table = [line for line in text.splitlines() if line.startswith('| ')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table[2:]]


def table1(found):
    return lines(table1_cityscapes_val.markdown(found.rows))


# ---- which row is which ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('name', 'index'), HERE)
def test_the_commands_of_a_row_make_that_row_and_no_other(tmp_path, name, index):
    table = TABLES[name]
    item = table.entries[index]
    workdirs = []
    for command in item.commands:
        config, workdir = forged.config_of(command)
        for start in filter(None, (config.checkpoint, config.train.init.checkpoint)):
            assert start in {f'{before}/weights' for before in workdirs} | set(paper_table.IMAGENET.values())
        workdirs.append(workdir)
    found = read(tmp_path, row_of(item, 0.5))
    assert found.faults == []
    said = lines(paper_table.markdown(table, found.rows))
    reached = [cells[-5] for cells in said]
    assert reached[index].startswith('50.00')
    others = [other for at, other in enumerate(table.entries) if at != index]
    expected = ['–' if not other.wanted else 'not run' for other in others]
    assert [text.split(' (')[0] for at, text in enumerate(reached) if at != index] == expected
    assert 'none of these rows' not in paper_table.markdown(table, found.rows)


@pytest.mark.parametrize(
    ('fields', 'images', 'said'),
    [
        ({'backbone.output_stride': 8}, 500, 'output stride 8 instead of 16'),
        ({'evaluate.scales': (0.75, 1.0)}, 500, 'scales (0.75, 1.0) instead of (1.0,)'),
        ({'evaluate.flip': True}, 500, 'flip True instead of False'),
        ({'decoder.output_stride': 4}, 500, 'decoder 4 instead of 0'),
        ({'backbone.width': 0.5}, 500, 'width 0.5 instead of 1.0'),
        ({'context.genotype': 'conv1x1'}, 500, 'genotype conv1x1 instead of dpc_top1'),
        ({'context.name': 'image_level'}, 500, 'context image_level instead of aspp'),
        ({}, 12, 'images 12 instead of 500'),
        ({'dataset.generated': 6, 'dataset.root': ''}, 500, 'drawn images'),
    ],
)
def test_another_network_or_protocol_is_not_taken_for_the_row(tmp_path, fields, images, said):
    found = read(tmp_path, row_of(MOBILE_DPC, 0.99, config=fields, images=images))
    assert [cells[7].split(' (')[0] for cells in table1(found)] == ['not run'] * 4
    assert re.search(
        rf'^- .*metrics.json \(99.00\): .*{re.escape(said)}', table1_cityscapes_val.markdown(found.rows), re.M
    )


@pytest.mark.parametrize('field', [{'evaluate.split': 'train'}, {'dataset.name': 'camvid'}])
def test_rows_of_other_images_are_not_even_mentioned(tmp_path, field):
    text = table1_cityscapes_val.markdown(read(tmp_path, row_of(MOBILE_DPC, 0.99, config=field)).rows)
    assert '99.00' not in text
    assert str(tmp_path) not in text


def test_the_genotype_of_a_network_without_a_cell_does_not_count(tmp_path):
    aspp = TABLES['table1_cityscapes_val'].entries[0]
    found = read(tmp_path, row_of(aspp, 0.5, config={'context.genotype': 'conv1x1'}))
    assert table1(found)[0][7] == '50.00'


def test_either_xception_is_the_row_and_said(tmp_path):
    ours = [row_of(XCEPTION_DPC, 0.8), row_of(XCEPTION_DPC, 0.7, config={'backbone.name': 'xception_65'}, seed=1)]
    assert [cells[7] for cells in table1(read(tmp_path, *ours))[3:]] == ['80.00, xception_71', '70.00, xception_65']


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_and_other_trainings_stand_apart(tmp_path):
    ours = [row_of(MOBILE_DPC, miou, seed=seed) for seed, miou in enumerate((0.74, 0.75, 0.76))]
    short = row_of(MOBILE_DPC, 0.5, seed=9, config={'train.steps': 100})
    cells = table1(read(tmp_path, *ours, short))[1:3]
    init = 'runs/coco_mobilenet_v2_dpc/weights'
    said = ['76.00 (mean 75.00 ± 1.00)', '3', f'90000 steps of 16, crop 769x769, from {init}', 'c0ffee', 'cpu']
    assert cells[0][7:] == [*said[:-1], cells[0][-1]]
    assert 'cpu' in cells[0][-1]
    assert cells[1][7:10] == ['50.00', '1', f'100 steps of 16, crop 769x769, from {init}']


def test_a_copy_of_a_row_counts_once(tmp_path):
    one = row_of(MOBILE_DPC, 0.75)
    alone = {name: value for name, value in one.items() if name != 'training'}  # the same, evaluated again
    found = read(tmp_path, alone, one, one)
    assert len(found.rows) == 1
    assert found.rows[0].seed == 0


def test_an_evaluation_alone_says_how_its_weights_were_trained(tmp_path):
    item = TABLES['table3_person_part'].entries[-1]
    training, _ = forged.config_of(item.commands[1])
    trained = forged.row(training, 1817, 0.6, weights=7)
    ours = row_of(item, 0.71, weights=7)
    said = lines(table3_person_part.markdown(read(tmp_path, ours, trained).rows))[-1]
    assert said[2:5] == [
        '71.00, xception_71',
        '1',
        '30000 steps of 16, crop 513x513, from runs/coco_xception_71_dpc/weights',
    ]
    said = lines(table3_person_part.markdown(read(tmp_path / 'alone', ours).rows))[-1]
    assert said[4] == 'checkpoint runs/person_part/weights'


def test_a_test_set_is_scored_by_the_server(tmp_path):
    item = TABLES['table2_cityscapes_test'].entries[-1]
    found = read(tmp_path, row_of(item, None))
    folder = tmp_path / 'run0/evaluation'

    def said():
        return lines(table2_cityscapes_test.markdown(rows.read([str(tmp_path)]).rows))[-1][2]

    assert found.rows[0].miou is None
    assert said() == 'labels exported to runs/cityscapes_test/labels, the server scores them, xception_71'
    (folder / 'server.json').write_text('{"miou": 0.827}')
    assert said() == '82.70, xception_71'
    for damaged in ('{"miou": 82.7}', '{"miou": null}', '{', '[]'):
        (folder / 'server.json').write_text(damaged)
        assert said().startswith('labels exported')
        (fault,) = rows.read([str(tmp_path)]).faults
        assert str(folder / 'server.json') in fault
    forged.write(tmp_path / 'other', row_of(item, None, seed=1, config={'evaluate.export': ''}))
    (tmp_path / 'run0/evaluation/metrics.json').unlink()
    assert said() == 'no score: the images have no labels, and none were exported, xception_71'


def test_an_answer_of_the_server_beside_a_copy_is_found(tmp_path):
    item = TABLES['table4_voc_test'].entries[-1]
    read(tmp_path, row_of(item, None), row_of(item, None))
    (tmp_path / 'run1/evaluation/server.json').write_text('{"miou": 0.879}')
    assert [row.miou for row in rows.read([str(tmp_path)]).rows] == [0.879]


def without(held, *path):
    *parents, last = path
    held = json.loads(json.dumps(held))
    place = held
    for parent in parents:
        place = place[parent]
    del place[last]
    return held


def test_damaged_rows_are_named_and_skipped(tmp_path):
    good = row_of(MOBILE_DPC, 0.75)
    damaged = {
        '{"miou": 0.7': 'cannot be read',
        '[1]': 'is not a JSON object',
        '{}': "it has no 'config'",
        json.dumps(without(good, 'config', 'backbone', 'name')): "it has no 'name'",
        json.dumps(good | {'miou': 75}): 'miou is 75; it must be a number from 0 to 1',
        json.dumps(good | {'dataset': None}): 'None stands where a text should be',
        json.dumps(good | {'scales': 1.0}): 'not iterable',
        json.dumps(good | {'training': {'steps': 1}}): "it has no 'crop_size'",
        json.dumps(good | {'images': 'many'}): 'invalid literal',
    }
    found = read(tmp_path, good, *damaged)
    assert len(found.rows) == 1
    assert len(found.faults) == len(damaged)
    for number, said in enumerate(damaged.values(), 1):
        (fault,) = [fault for fault in found.faults if str(tmp_path / f'run{number}/') + '/' in fault]
        assert said in fault
        assert '\n' not in fault


def test_folders_are_looked_for_here_and_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rows.located('experiments/results') == ROOT / 'experiments/results'
    assert rows.located('absent') == ROOT / 'absent'
    assert rows.read(['absent']) == ([], [])
    forged.write(tmp_path / 'absent', row_of(MOBILE_DPC, 0.75))
    assert len(rows.read(['absent']).rows) == 1


# ---- the published numbers ------------------------------------------------------------------------------------------


def test_table_1_is_printed_as_published():
    published = [
        ['MobileNet-v2', 'ASPP', '0.25M', '0.25M, 0.42M (‡)', '2.82B', '2.82B', '73.97'],
        ['MobileNet-v2', 'DPC', '0.36M', '0.36M', '3.00B', '2.99B', '75.38 (†)'],
        ['modified Xception', 'ASPP', '1.59M', '1.59M, 2.68M (‡)', '18.12B', '18.05B', '80.25'],
        ['modified Xception', 'DPC', '0.81M', '0.81M', '6.84B', '6.83B', '80.85'],
    ]
    text = table1_cityscapes_val.markdown([])
    assert [cells[:7] for cells in lines(text)] == published
    assert '(†) Corrected' in text
    assert '75.98' in text


def test_without_counted_costs_the_published_ones_stand_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(table1_cityscapes_val, 'COSTS', tmp_path / 'absent.json')
    text = table1_cityscapes_val.markdown([])
    assert lines(text)[1][2:6] == ['0.36M', '–', '3.00B', '–']
    assert '(‡)' not in text


@pytest.mark.parametrize(
    ('made', 'published'),
    [
        (table2_cityscapes_test, '81.2 82.0 82.1 82.7'),
        (table3_person_part, '63.57 64.39 67.60 71.34'),
        (table4_voc_test, '85.9 86.2(†) 87.8 87.9 88.0 87.9'),
    ],
)
def test_the_other_tables_are_printed_as_published(made, published):
    assert [cells[1].replace(' ', '') for cells in lines(made.markdown([]))] == published.split()


# ---- CamVid ---------------------------------------------------------------------------------------------------------


def camvid(context, miou, seed, **fields):
    command = camvid_rows.command(context).split('do ')[1].removesuffix('; done').replace('$seed', str(seed))
    config, workdir = forged.config_of(command)
    assert (workdir, config.seed, config.context.name) == (f'runs/camvid_{context}_seed{seed}', seed, context)
    config.update_from_flattened_dict(fields)
    return forged.row(config, 101, miou, seed=seed, weights=100 * (context == 'dpc') + seed)


def test_camvid_is_listed_by_module_over_seeds(tmp_path):
    ours = [camvid('dpc', 0.50, 0), camvid('dpc', 0.52, 1), camvid('aspp', 0.49, 1), camvid('aspp', 0.99, 2)]
    ours[-1]['config']['dataset'].update(root='', generated=6)
    text = camvid_rows.markdown(read(tmp_path, *ours).rows)
    first, second = lines(text)
    assert first[:9] == [
        *('dpc-dpc_top1', 'mobilenet_v2', 'no', '16', 'val, 101 images', '1.0'),
        *('51.00 ± 1.41', '50.00, 52.00', '2'),
    ]
    assert (second[0], second[6:9]) == ('aspp', ['49.00', '49.00', '1'])
    assert 'not run' not in text


def test_camvid_networks_that_differ_are_not_averaged(tmp_path):
    ours = [camvid('dpc', 0.5, 0), camvid('dpc', 0.6, 1, **{'train.steps': 7}), camvid('dpc', 0.7, 2)]
    ours.append(camvid('dpc', 0.8, 3, **{'backbone.width': 0.5, 'decoder.output_stride': 4, 'evaluate.flip': True}))
    text = camvid_rows.markdown(read(tmp_path, *ours).rows)
    assert [(cells[1], cells[2], cells[5], cells[7]) for cells in lines(text)] == [
        ('mobilenet_v2 x 0.5', 'stride 4', '1.0 and mirrored', '80.00'),
        ('mobilenet_v2', 'no', '1.0', '50.00, 70.00'),
        ('mobilenet_v2', 'no', '1.0', '60.00'),
    ]
    assert 'aspp: not run' in text
    assert camvid_rows.command('aspp') in text


# ---- as a user starts them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', [*TABLES, 'camvid_rows'])
def test_a_script_prints_its_table_from_any_folder(tmp_path, name):
    (tmp_path / 'rows').mkdir()
    (tmp_path / 'rows/metrics.json').write_text('{')
    done = forks.run(f'experiments/{name}.py', '--rows=rows,absent', '--out=table.md', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r'skipped: rows/metrics.json cannot be read: .*\n', done.stderr)
    assert (tmp_path / 'table.md').read_text() == done.stdout
    assert 'python run.py --config=configs/' in done.stdout


@pytest.mark.parametrize('out', ['absent/table.md', '.'])
def test_a_file_that_cannot_be_written_is_named(tmp_path, out):
    with pytest.raises(InputError, match='must be a file in a folder that is there'):
        paper_table.show(camvid_rows.markdown, [], tmp_path / out)
