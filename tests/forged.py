"""Forged rows: of evaluations, as `dpc_jax.evaluate` writes them, and candidates of a study."""

import ast
import functools
import importlib
import json
import math
import shlex

import numpy as np

from dpc_jax import evaluation
from dpc_jax.datasets import Dataset, Facts
from dpc_jax.evaluation import report as evaluation_report
from dpc_jax.spaces.dpc import Genotype
from dpc_jax.study import Candidate
from dpc_jax.tasks.segmentation import Segmentation

CLASSES = ('road', 'sky', 'bus')
TASK = Segmentation(Facts('forged', CLASSES, ((0, 0, 0),) * 3))


class Images(Dataset):
    """Nothing but the name and the digest of a data set."""

    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError

    def example_name(self, index):
        raise IndexError

    def image_bytes(self, index):
        raise IndexError

    def fingerprint(self):
        return 'f1'


def config_of(command):
    """The config of a call of run.py, and its workdir."""
    words = shlex.split(command.replace('\\\n', ' '))
    assert words[:2] == ['python', 'run.py']
    path, _, arg = words[2].removeprefix('--config=configs/').partition(':')
    config = importlib.import_module(f'configs.{path.removesuffix(".py")}').get_config(arg)
    workdir = words[3].removeprefix('--workdir=')
    for override in words[4:]:
        field, value = override.removeprefix('--config.').split('=', 1)
        *parents, last = field.split('.')
        place = functools.reduce(getattr, parents, config)
        place[last] = value if isinstance(place[last], str) else ast.literal_eval(value)
    return config, workdir


def row(config, images, miou, *, seed=0, weights=None):
    """The scores and their cause; with `training`, as a training writes them, where the config is of one."""
    kind = type('Forged', (Images,), {'name': config.dataset.name, 'classes': CLASSES})
    variables = {'kernel': np.array([seed if weights is None else weights], np.float32)}
    found = {
        **TASK.compute({'confusion': np.zeros((3, 3), np.int64)}),
        **({} if miou is None else scores(miou)),
        **{'images': images, 'seconds': 1.0, 'crop_size': [33, 33]},
        **evaluation.cause(config, kind(config.evaluate.split), variables),
    }
    if config.journey == 'train':
        train = config.train
        found['training'] = {
            **{'steps': train.steps, 'seed': seed, 'seconds': 60.5, 'init': train.init.checkpoint},
            **{'batch_size': train.batch_size, 'crop_size': list(train.crop_size)},
        }
    return found


def scores(miou):
    """Two of three classes are there."""
    return {
        **{'miou': miou, 'pixel_accuracy': miou + 0.1, 'class_accuracy': miou + 0.05, 'labelled_pixels': 100},
        'iou': {'road': miou + 0.1, 'sky': miou - 0.1, 'bus': float('nan')},
    }


def write(folder, found):
    """metrics.json in a new folder."""
    folder.mkdir(parents=True)
    path = folder / 'metrics.json'
    path.write_text(found if isinstance(found, str) else evaluation_report.as_json(found))
    return path


def records(steps, miou, every=10):
    """Lines of metrics.jsonl."""
    lines = []
    for step in range(every, steps + 1, every):
        lines.append({'step': step, 'loss': 2 - step / steps, 'learning_rate': 0.01 * (1 - (step - 1) / steps) ** 0.9})
        if step % (4 * every) == 0:
            lines.append({'step': step, 'miou': miou * step / steps, 'pixel_accuracy': 0.9})
    return ''.join(json.dumps(line) + '\n' for line in lines)


def candidate(number, score=math.nan, *, state='', **fields):
    """A candidate of a study; without a score it failed."""
    held = {
        'reference': '',
        'genotype': Genotype(np.array([-1], np.int32), np.array([0], np.int32)),
        'key': f'F[cell{number}]',
        'curve': (),
        'losses': (1.5, 0.75),
        **{'steps': 30, 'seed': 0, 'rung': 'proxy'},
        **{'config_hash': 'c0ffee', 'commit': 'abc', 'device': 'cpu'},
        **{'seconds': 2.5, 'worker': 'here:1', 'finished': '2026-01-01T00:00:00+00:00', 'failure': ''},
        **fields,
    }
    state = state or ('failed' if math.isnan(score) else 'complete')
    return Candidate(number=number, score=score, state=state, **held)
