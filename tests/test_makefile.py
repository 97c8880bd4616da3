"""What `make search` runs, read from what make would do."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def search(*settings):
    """The last command of `make search` with these settings, without what belongs to the machine."""
    if shutil.which('make') is None:
        pytest.skip('there is no make')
    # The tests themselves run under a make, whose settings are not for this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith('MAKE') and name != 'MFLAGS'}
    command = ['make', '--dry-run', 'search', *settings]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout.splitlines()[-1].partition('python ')[2].strip()


def test_by_default_cells_are_searched_on_the_scenes():
    assert search() == 'run.py --config=configs/scenes_search.py --workdir=runs/scenes'
    assert search('WORKDIR=here', 'ARGS=--config.seed=1').endswith('--workdir=here --config.seed=1')


@pytest.mark.parametrize(
    ('config', 'workdir'),
    [
        ('configs/scenes_aux_search.py', 'runs/scenes_aux'),
        ('configs/voc_aux_search.py:toy', 'runs/voc_aux'),
        ('/elsewhere/mine.py', 'runs/mine'),
    ],
)
def test_another_search_has_a_folder_of_its_own(config, workdir):
    assert search(f'CONFIG={config}') == f'run.py --config={config} --workdir={workdir}'
    assert search(f'CONFIG={config}', 'WORKDIR=here') == f'run.py --config={config} --workdir=here'
