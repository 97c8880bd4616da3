"""The script of Table 1, as a user starts it; what it counts is tested in test_counting.py."""

import json
import pathlib
import re

import pytest

from dpc_jax.base import InputError
from dpc_jax.spaces import dpc
from experiments import image_size  # defines no flags, as the scripts do
from tests import forks

ROOT = pathlib.Path(__file__).resolve().parent.parent


def finish(*argv):
    done = forks.run('experiments/table1_modules.py', *argv)
    return done.returncode, done.stdout, done.stderr


def cells(text, *beginning):
    """The rows of the tables that begin so, without the numbers' commas."""
    rows = [[cell.strip().replace(',', '') for cell in line.split('|')[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row[: len(beginning)] == list(beginning)]


def test_table_1_stands_beside_what_it_should_say(tmp_path):
    files = ('--json=' + str(tmp_path / 'costs.json'), '--out=' + str(tmp_path / 'costs.md'))
    code, out, err = finish('--backbones=mobilenet_v2', '--by_operator', *files)
    assert (code, err) == (0, '')
    assert (tmp_path / 'costs.md').read_text() == out
    features = '65x129x320 (mobilenet_v2)'
    assert cells(out, features, 'ASPP')[0][2:8] == ['0.25M', '0.25M', '418240', '745920', '2.82B', '2.82B']
    assert cells(out, features, 'DPC')[0][2:8] == ['0.36M', '0.36M', '356160', '683840', '3.00B', '2.99B']
    assert cells(out, 'DPC 320 channels')[0][1:4] == ['144 %', '143 %', '85 %']
    assert cells(out, 'mobilenet_v2', 'DPC', 'yes')[0][3:6] == ['2663747', '2703299', '337']
    assert cells(out, 'mobilenet_v2', 'image level + 1x1', 'no')[0][6:] == ['21.27B', '21.23B']
    report = json.loads((tmp_path / 'costs.json').read_text())
    for row in [*report['modules'], *report['models']]:
        assert row['seconds'] is None
    for row in report['modules']:  # the convolutions that are listed are what is summed
        listed = [operation for operation in row['operations'] if operation['path'] != 'concat_projection']
        assert (row['params'], row['macs']) == tuple(sum(o[key] for o in listed) for key in ('weights', 'macs'))
    for row in report['models']:
        for groups in ('parts', 'kinds'):
            assert row['weights'] == sum(group['weights'] for group in row[groups].values())
            assert row['macs'] == sum(group['macs'] for group in row[groups].values())


@pytest.mark.slow
def test_a_cell_of_the_users_and_wall_time_at_another_size(tmp_path):
    space = dpc.Space(2)
    genotype = space.from_params(
        {'branch0.input': -1, 'branch0.op': 'pool 2x4', 'branch1.input': 0, 'branch1.op': 'conv1x1'}
    )
    (tmp_path / 'mine.json').write_text(space.to_json(genotype))
    files = (f'--genotype={tmp_path / "mine.json"}', f'--json={tmp_path / "costs.json"}')
    code, out, err = finish('--backbones=mobilenet_v2', '--image_size=65x97', '--repeats=1', '--contexts=dpc', *files)
    assert code == 0, err
    report = json.loads((tmp_path / 'costs.json').read_text())
    row = next(row for row in report['modules'] if row['module'] == 'mine.json')
    counts = dpc.count(genotype, size=(5, 7), channels=320, filters=256, pooling='sliding')
    assert (row['params'], row['macs']) == (counts.branch_params, counts.branch_macs)
    assert row['macs_published'] is None
    assert all(row['seconds'] > 0 for row in [*report['modules'], *report['models']])
    assert {row['context'] for row in report['models']} == {'DPC', 'mine.json'}
    assert re.search(r'Wall time: .*cpu.* median of 1\.', out)


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        (['--contexts=psp'], "--contexts has 'psp'; allowed: aspp, dpc, image_level"),
        (['--repeats=-1'], '--repeats is -1'),
        (['--out=absent/costs.md'], "there is no folder 'absent'"),
        (['--output_stride=32', '--backbones=mobilenet_v2'], 'output stride 32'),
    ],
)
def test_bad_input_is_one_line(argv, said):
    code, out, err = finish(*argv)
    assert (code, out, err.count('\n')) == (2, '', 1), err
    assert said in err


@pytest.mark.parametrize('text', ['1025', '0x5', '5x', '1x2x3', '-1x5', '1.5x2', 'axb', ''])
def test_a_size_is_two_numbers(text):
    assert image_size.parse('1025x2049', 'image_size') == (1025, 2049)
    with pytest.raises(InputError, match=re.escape(f"--image_size is '{text}'; it must be HEIGHTxWIDTH in pixels")):
        image_size.parse(text, 'image_size')
