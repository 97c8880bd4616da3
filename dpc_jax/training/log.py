"""What a training shows while it runs and afterwards: lines, progress, TensorBoard, pictures of predictions.

`metrics.jsonl` has a line per record, `{"step": 100, "loss": ...}` of training and `{"step": 5000, "miou": ...}` of an
evaluation. A run that was stopped goes on from it: lines that are later than its checkpoint are removed.
"""

import json
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpc_jax import files, metrics
from dpc_jax.base import InputError, MainScore
from dpc_jax.progress import StepProgress

METRICS = 'metrics.jsonl'
SHOWN_DPI = 60  # of predictions in TensorBoard, whose event files grow with every one

Record = dict[str, Any]


class TrainLog:
    """The records of one run: `with TrainLog(workdir, total, start) as log: ...`.

    Of several processes only the first writes.
    """

    def __init__(self, workdir: pathlib.Path, total: int, start: int, main: MainScore = metrics.MIOU) -> None:
        """`start`: the step after which the run goes on; `total`: the steps of the whole run; `main`: what is shown."""
        self._main = main
        self._path = workdir / METRICS
        self._writes = jax.process_index() == 0
        self.records = read_records(self._path, start)
        if self._writes:
            files.write(self._path, ''.join(_line(record) for record in self.records))
        self._progress = StepProgress(total, start, workdir / 'events' if self._writes else None)

    def __enter__(self) -> 'TrainLog':
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    @property
    def evaluations(self) -> list[Record]:
        """The records of evaluations."""
        return [record for record in self.records if self._main.name in record]

    def evaluated(self, step: int) -> bool:
        """Whether there is an evaluation after so many steps."""
        return any(record['step'] == step for record in self.evaluations)

    def advance(self, step: int) -> None:
        """Moves the progress bar: `step` steps have been taken."""
        self._progress.advance(step)

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Records means since the last record."""
        self._add(step, 'train', values)
        self._progress.say(f'loss {values["loss"]:.4f} at step {step}{self._best()}')

    def evaluation(self, step: int, values: Mapping[str, float], panels: Figure | None) -> None:
        """Records scores on the split of evaluation, and a picture of predictions."""
        self._add(step, 'evaluation', values)
        if panels is not None and self._writes:
            self._progress.image('evaluation/predictions', step, pixels(panels))

    def _best(self) -> str:
        scores = [record[self._main.name] for record in self.evaluations if record[self._main.name] is not None]
        return f' | best {self._main.shown(self._main.best(scores))}' if scores else ''

    def _add(self, step: int, group: str, values: Mapping[str, float]) -> None:
        record = {'step': step, **values}
        self.records.append(record)
        if not self._writes:
            return
        with self._path.open('a', encoding='utf-8') as file:
            file.write(_line(record))
        self._progress.scalars(step, {f'{group}/{name}': value for name, value in values.items()})


def read_records(path: pathlib.Path, last: int | None = None) -> list[Record]:
    """The records of a run up to the step `last`; [] where there is no file. A line cut off by a kill is left out."""
    records = []
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read {path}: {error}') from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f'{path}, line {number}: {line[:40]!r} is not JSON') from error
        if last is None or record['step'] <= last:
            records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({name: None if value != value else value for name, value in record.items()}) + '\n'


def pixels(figure: Figure, dpi: int = SHOWN_DPI) -> UInt8[np.ndarray, 'H W 3']:
    """A figure as an image."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
