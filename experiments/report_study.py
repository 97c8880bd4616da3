"""The report of a search from its storage alone: no data, no weights, no training. It works while the search runs, too.

The study of a first rung (`dpc-proxy`, `aux-proxy`) brings those of the later rungs of its ladder with it.

python experiments/report_study.py --workdir=runs/camvid
python experiments/report_study.py --storage=postgresql://user@host/db --study=dpc-proxy --out=report
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from dpc_jax import command_line, figures, spaces, study
from dpc_jax.base import InputError
from experiments import common

STORAGE = flags.DEFINE_string('storage', '', 'Instead of --workdir: any Optuna URL.')
STUDY = flags.DEFINE_string('study', '', 'Name of the study, where there are several.')
OUT = flags.DEFINE_string('out', '', 'Folder for the report.')


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
    parts = [study.read(url, name) for name in study.rungs(url, STUDY.value or study.first(url))]
    candidates, settings = [candidate for found, _ in parts for candidate in found], parts[0][1] | parts[-1][1]
    paths = figures.write_report(candidates, out, space=spaces.make(settings['space']), settings=settings)
    print('\n'.join(str(path) for path in paths))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
