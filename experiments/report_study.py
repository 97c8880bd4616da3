"""The report of a study from its storage alone: no data, no weights, nothing trained. Also while the search runs.

python experiments/report_study.py --workdir=runs/camvid
python experiments/report_study.py --storage=postgresql://user@host/db --study=dpc-proxy --out=report
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from dpc_jax import assembly, command_line, figures, study
from dpc_jax.base import InputError
from dpc_jax.spaces.dpc import Space
from experiments import common

STORAGE = flags.DEFINE_string('storage', '', 'Or any Optuna URL.')
STUDY = flags.DEFINE_string('study', 'dpc-proxy', 'Name of the study there.')
OUT = flags.DEFINE_string('out', '', 'Folder for the report.')


def space_of(settings: Mapping[str, Any]) -> Space:
    """The space of a study's settings."""
    return Space(int(settings['space']['num_branches']))


def main(argv: Sequence[str]) -> None:
    """Reads and writes."""
    del argv
    if bool(common.WORKDIR.value) == bool(STORAGE.value):
        raise InputError('give either --workdir or --storage')
    workdir = pathlib.Path(common.WORKDIR.value).expanduser().resolve()
    out = OUT.value or (str(workdir / 'report') if common.WORKDIR.value else '')
    if not out:
        raise InputError('--out is needed with --storage: the folder for the report')
    url = STORAGE.value or f'sqlite:///{workdir / "study.db"}'
    candidates, settings = study.read(url, STUDY.value, space_of)
    count = assembly.cost_of(settings)
    paths = figures.write_report(candidates, out, space=space_of(settings), settings=settings, count=count)
    print('\n'.join(str(path) for path in paths))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
