"""What `import dpc_jax` offers beside the rooms' own names: the journeys with values in place of files and flags.

Nothing here needs absl's flags or a command line: it works in a notebook and in a script.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from jaxtyping import UInt8
from matplotlib.axes import Axes

from dpc_jax import bench as benches
from dpc_jax import cell_files, described, evaluation, figures, files, networks, sharding, spaces, weights
from dpc_jax.base import Genotype, InputError, PyTree, as_int32
from dpc_jax.evaluation import Evaluation
from dpc_jax.inference import InferenceSettings
from dpc_jax.journeys import evaluate as evaluate_journey
from dpc_jax.journeys import search as search_journey
from dpc_jax.journeys import train as train_journey
from dpc_jax.prediction import Predictor, PredictSettings
from dpc_jax.segmenter import Segmenter
from dpc_jax.study import Candidate
from dpc_jax.task import Task

Path = str | pathlib.Path

DRAWINGS = ('.svg', '.png', '.pdf')


# ---- configs --------------------------------------------------------------------------------------------------------


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """The config of a file, perhaps with `:argument` after its name, as `--config` takes it.

    >>> config = dpc_jax.load_config('configs/scenes_search.py:toy', {'proxy.steps': 8})

    Args:
      path: a Python file with `get_config(arg='')`. The folder above its own is searched for what it imports, so that
        files of `configs/` find `configs.common` from any working directory.
      overrides: dotted names of fields -> values, as flags `--config.NAME=VALUE` give them.

    Raises:
      InputError: no such file, it has no config, an argument or a field that is not known, a value of another type.
    """
    name, _, argument = str(path).partition('.py:')
    file = pathlib.Path(name + '.py' if argument else name).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"config '{path}': no such file")
    found = importlib.util.spec_from_file_location(f'dpc_jax_config_{file.stem}', file)
    if found is None or found.loader is None:
        raise InputError(f"config '{path}': not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(file.parent.parent))
    try:
        found.loader.exec_module(module)
        config: ml_collections.ConfigDict = module.get_config(argument)
    except Exception as error:  # whatever a file of the user does
        raise InputError(f"config '{path}': {' '.join(str(error).split()) or type(error).__name__}") from error
    finally:
        sys.path.remove(str(file.parent.parent))
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"config '{path}': get_config gives no ConfigDict but {type(config).__name__}")
    config.lock()
    for name, value in dict(overrides or {}).items():
        try:
            if value is None or not name:
                raise ValueError('a field and a value are needed')
            config.update_from_flattened_dict({name: value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            line = ' '.join(str(error.args[0] if error.args else error).split())
            raise InputError(f"config '{path}' cannot take {{{name!r}: {value!r}}}: {line}") from error
    return config


# ---- journeys -------------------------------------------------------------------------------------------------------


def prepare(config: ml_collections.ConfigDict, workdir: Path) -> benches.Bench:
    """Prepares a search: data sets, frozen backbone, cached features; `Bench.evaluate` scores cells on it.

    >>> bench = dpc_jax.prepare(config, 'runs/scenes')
    >>> result = bench.evaluate(bench.space.sample(jax.random.key(0), 64))

    What takes long is kept in `workdir`: a second call takes seconds. InputError for whatever is wrong.
    """
    return benches.prepare(config, workdir)


def search(config: ml_collections.ConfigDict, workdir: Path) -> list[Candidate]:
    """Searches, or goes on with the search in `workdir`; gives all finished candidates and references.

    >>> candidates = dpc_jax.search(config, 'runs/scenes')

    This does the same as `run.py` with this config: report and pictures are written to `workdir/report`.
    """
    return search_journey.run(config, files.local(workdir, 'workdir'))


def train(config: ml_collections.ConfigDict, workdir: Path, genotype: Genotype | None = None) -> Evaluation:
    """Trains a whole network, or goes on with the training in `workdir`; the scores of the trained network.

    >>> dpc_jax.train(network_config, 'runs/net', genotype=result.best(1)[0])

    Args:
      config: of a whole network, such as `configs/camvid.py`.
      genotype: the cell, unbatched, in place of the one that `config.context` names.

    Weights are written to `workdir/weights`. A script that does not guard its main part (`if __name__ == '__main__'`)
    cannot start processes that read images, so it reads them in its own; the results are the same.
    """
    config = with_genotype(config, genotype)
    if not flags.FLAGS.is_parsed():  # Grain reads its flags
        flags.FLAGS.mark_as_parsed()
    if config.train.workers and not _may_start_processes():
        print('reading images in this process; guard the main part of the script to use config.train.workers')
        config.train.workers = 0
    return train_journey.run(config, files.local(workdir, 'workdir'))


def evaluate(
    config: ml_collections.ConfigDict, workdir: Path, checkpoint: Path = '', genotype: Genotype | None = None
) -> Evaluation:
    """Evaluates trained weights on `config.evaluate.split`; writes scores and pictures into `workdir/evaluation`.

    >>> dpc_jax.evaluate(network_config, 'runs/scores', checkpoint='runs/net/weights', genotype=result.best(1)[0])

    `checkpoint` and `genotype` are in place of `config.checkpoint` and of the cell that `config.context` names.
    """
    config = with_genotype(config, genotype)
    config.checkpoint = str(checkpoint or config.checkpoint)
    return evaluate_journey.run(config, files.local(workdir, 'workdir'))


def with_genotype(config: ml_collections.ConfigDict, genotype: Genotype | None) -> ml_collections.ConfigDict:
    """A copy of the config whose context is that cell; InputError where the config names no network."""
    if not isinstance(config, ml_collections.ConfigDict) or 'context' not in config:
        raise InputError('the config names no whole network; configs/camvid.py and configs/cityscapes.py do')
    config = config.copy_and_resolve_references()
    if genotype is not None:
        config.context.name, space = spaces.find(genotype)  # a context has the name of its space
        config.context.genotype = ' '.join(space.to_json(as_int32(genotype)).split())
    return config


def _may_start_processes() -> bool:
    """Whether a spawned process may import the main module: there is none (a notebook), or its main part is guarded."""
    file = getattr(sys.modules['__main__'], '__file__', None)
    if file is None or not pathlib.Path(file).is_file():
        return True
    return '__main__' in pathlib.Path(file).read_text(encoding='utf-8', errors='replace')


# ---- networks -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Network:
    """A whole network with its weights, ready to predict. `load_network` makes it.

    >>> colours = network.palette[dpc_jax.predict(network, image)]
    """

    segmenter: Segmenter
    task: Task
    variables: PyTree
    settings: InferenceSettings

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what the network tells apart: classes, joints, or 'depth'."""
        return self.task.names

    @property
    def palette(self) -> UInt8[np.ndarray, 'L 3']:
        """RGB colour of each of them."""
        return self.task.palette

    @functools.cached_property
    def predictor(self) -> Predictor:
        """Its programs on the devices of this process, one image at a time."""
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), sharding.local_mesh().axis_names)
        crop_size = self.task.fields().get('size', (0, 0))
        return Predictor(
            *(self.segmenter, self.task, self.variables, self.settings, PredictSettings(), mesh), crop_size=crop_size
        )


def load_network(
    config: ml_collections.ConfigDict | Path, checkpoint: Path = '', genotype: Genotype | None = None
) -> Network:
    """A network with trained weights: a folder that a training or an import wrote (`weights`, `best`).

    >>> network = dpc_jax.load_network('runs/net/weights')
    >>> network = dpc_jax.load_network(network_config, 'runs/net/weights', genotype=result.best(1)[0])

    Args:
      config: the folder alone, if its checkpoint says which network it is of; or the config of that network, by whose
        `evaluate.scales` and `.flip` it predicts.

    Raises:
      InputError: no such checkpoint, a damaged one, or one that belongs to another network.
    """
    if isinstance(config, str | pathlib.Path):
        if checkpoint or genotype is not None:
            raise InputError(f"the folder '{config}' says which network it is: give it alone, or a config before it")
        path = files.local(config, 'checkpoint')
        settled, settings = described.config_of(path), InferenceSettings()
    else:
        config = with_genotype(config, genotype)
        if not str(checkpoint or config.checkpoint):
            raise InputError('checkpoint is empty; give the folder of weights, such as runs/net/weights')
        path = files.local(checkpoint or config.checkpoint, 'checkpoint')
        settled, settings = described.settled(config, path, with_data=False), None
    task = described.found_task(settled, path)
    if settings is None:
        settings = evaluation.inference_settings(settled, None)
        segmenter = evaluation.make_network(settled, task.channels)
    else:
        segmenter = networks.make(settled, task.channels)
    variables = weights.restore(path, networks.variable_shapes(segmenter))
    return Network(segmenter, task, variables, settings)


def predict(network: Network | Path, image: np.ndarray) -> Any:
    """What a network finds in an RGB image [H, W, 3] in 0..255, of any size: the class of each pixel, uint8 [H, W].

    A network of another task gives what that means: metres [H, W] (float32); {'label': classes, 'depth': metres}; or
    the joints of one person whom the whole image shows, as `joints` [1, J, 3] of (x, y, height) in its pixels.

    >>> classes = dpc_jax.predict(network, np.asarray(PIL.Image.open('street.png').convert('RGB')))
    >>> by_folder = dpc_jax.predict('runs/net/weights', image)

    The image is padded with the mean pixel to output stride * k + 1, as in an evaluation, by whose settings
    (`config.evaluate.scales`, `.flip`) it is predicted; one of more than 2049x2049 pixels goes in tiles. A program is
    compiled once for each size. `network` may be the folder of a checkpoint, which is read again only if it changed.

    Raises:
      InputError: the image is not [H, W, 3] in 0..255 (floats up to 1 are taken for 0..1), or the network gives values
        that are not finite; or whatever is wrong with the folder.
    """
    if not isinstance(network, Network):
        path = files.local(network, 'checkpoint')
        sums = path / weights.SUMS
        network = _loaded(str(path), sums.read_text(errors='replace') if sums.is_file() else '')
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype.kind not in 'uif':
        raise InputError(
            f'the image has shape {pixels.shape} and type {pixels.dtype}; it must be [H, W, 3], RGB in 0..255'
        )
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= 0 and most <= 255) or (pixels.dtype.kind == 'f' and 0 < most <= 1):
        raise InputError(f'the image has values from {least:g} to {most:g}; it must be RGB in 0..255')
    (found,) = network.predictor.found([pixels])
    if not found.finite:
        raise InputError('the network gives values that are not finite; its weights are damaged or diverged')
    return found.found


@functools.lru_cache(maxsize=2)
def _loaded(path: str, sums: str) -> Network:
    """The network in a folder whose files have these checksums."""
    del sums
    return load_network(path)


# ---- cells ----------------------------------------------------------------------------------------------------------


def read_cells(sources: Path | list[Path], space: spaces.Space, seed: int = 0) -> list[Genotype]:
    """Cells by name, from JSON files, folders of them, JSON lines, a report's `ranking.csv`, or `sample:NUMBER`.

    Tables of `experiments/evaluate_cells.py` give each cell once, the best first; `named` stands for all cells that the
    space has a name for, and `near:NAME` for the neighbours of one of them.

    >>> cells = dpc_jax.read_cells(['runs/scenes/report/ranking.csv', 'sample:3'], bench.space)
    """
    listed = [sources] if isinstance(sources, str | pathlib.Path) else sources
    return [cell.genotype for cell in cell_files.read_cells(list(map(str, listed)), space, seed=seed)]


def draw_cell(genotype: Genotype, target: Axes | Path, title: str = '') -> None:
    """Draws a cell (unbatched) on matplotlib axes, or into a file (.svg, .png, .pdf).

    >>> dpc_jax.draw_cell(result.best(1)[0], 'best.svg')
    """
    _, space = spaces.find(genotype)
    if not isinstance(target, Axes):
        path = pathlib.Path(target).expanduser()
        if path.suffix not in DRAWINGS or not path.parent.is_dir():
            raise InputError(
                f"'{target}' cannot be drawn; it must be a {', '.join(DRAWINGS)} file in a folder that is there"
            )
        target = path
    figures.draw_cell(space.graph(genotype), target, title=title)
