"""A cell for use elsewhere: as official JSON, as a drawing, and as a program of a whole network with its weights.

For cells of the space dpc; `export_network.py` exports networks with any decoder.

  python experiments/export_cell.py --workdir=runs/camvid --place=1 --config=configs/camvid.py --image_size=369x481 \\
    --backbone=mobilenet_v2.npz --out=runs/cell
  python experiments/export_cell.py --genotype=dpc_top1 --config=configs/cityscapes.py --checkpoint=runs/imported \\
    --out=runs/cell

The config says what is around the cell (backbone, filters, decoder, classes of the data set) and, unless --image_size
does, the size of images. Weights are those of a checkpoint of this project (`experiments/import_checkpoint.py` makes
one of an official file); without one they are drawn from config.seed, except those of --backbone.
"""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import ml_collections
from absl import app, flags

from dpc_jax import (
    command_line,
    datasets,
    described,
    evaluation,
    export,
    figures,
    files,
    networks,
    provenance,
    study,
    tasks,
    weights,
)
from dpc_jax.base import Genotype, InputError, PyTree, Size, key_from_seed
from dpc_jax.cell import DensePredictionCell
from dpc_jax.contexts.dpc import read_genotype
from dpc_jax.figures import is_scored, percent
from dpc_jax.segmenter import Segmenter
from dpc_jax.spaces.dpc import Space
from dpc_jax.study import ranking
from experiments import common, network_folder

PLACE = flags.DEFINE_integer('place', 1, 'With --workdir: which of the ranked cells, 1 for the best.')
STUDY = flags.DEFINE_string('study', 'dpc-proxy', 'With --workdir: name of the study, as in report_study.py.')
STORAGE = flags.DEFINE_string('storage', '', 'Optuna URL of the search, where it is not study.db in --workdir.')
GENOTYPE = flags.DEFINE_string('genotype', '', 'Instead of --workdir: a named cell, or a JSON file.')
BACKBONE = flags.DEFINE_string('backbone', '', 'Weights of the backbone alone: an .npz or an official checkpoint.')
OUT = flags.DEFINE_string('out', '', 'Folder; what this script wrote there before is replaced.')

FILES = (
    *('cell.json', 'cell.svg', 'cell.png', network_folder.PROGRAM, described.FILE, network_folder.LOADER),
    'README.txt',
)

flags.adopt_module_key_flags(common)  # so that --help lists them
flags.adopt_module_key_flags(network_folder)


def main(argv: Sequence[str]) -> None:
    """Refuses what is wrong, then makes everything, then writes it."""
    del argv
    config = common.CONFIG.value
    if config is None or not OUT.value:
        raise InputError('--config and --out are needed; --help explains them')
    common.check_whole_network(config)
    if bool(common.WORKDIR.value or STORAGE.value) == bool(GENOTYPE.value):
        raise InputError('give either --workdir or --storage (of a search) or --genotype')
    out = pathlib.Path(OUT.value).expanduser()
    network_folder.check(out, FILES)
    classes = datasets.classes(config.dataset)
    genotype, title = chosen_cell()
    network = network_around(genotype, config, len(classes))
    config = config.copy_and_resolve_references()
    config.context.genotype = ' '.join(Space(len(genotype.ops)).to_json(genotype).split())
    size = network_folder.size_of_images(tuple(config.evaluate.crop_size))
    export.check_size(size, network.output_stride)
    pool_crop = evaluation.inference_settings(config, size).pool_crop
    variables, origin = load_weights(config, network)
    files.make_folder(out, '--out')
    program = export.program(
        network, tasks.make(config), variables, size=size, dtype=network_folder.IMAGE_DTYPE.value, pool_crop=pool_crop
    )
    facts = {'cell': f'{Space(len(genotype.ops)).canonical_key(genotype)} ({title})', 'weights': origin}
    texts = {'README.txt': readme(facts, config, size, classes), **described.files(described.of(config))}
    write(out, genotype, title=title, program=program, texts=texts)
    print('\n'.join([*(f'{name}: {value}' for name, value in facts.items()), *(str(out / name) for name in FILES)]))


# ---- what is exported -----------------------------------------------------------------------------------------------


def chosen_cell() -> tuple[Genotype, str]:
    """The cell of the flags, and what it is called."""
    if GENOTYPE.value:
        return read_genotype(GENOTYPE.value), pathlib.Path(GENOTYPE.value).stem
    workdir = pathlib.Path(common.WORKDIR.value).expanduser().resolve()
    url = STORAGE.value or f'sqlite:///{workdir / "study.db"}'
    candidates, _ = study.read(url, STUDY.value)
    ranked = ranking(candidate for candidate in candidates if is_scored(candidate) and not candidate.reference)
    if not 1 <= PLACE.value <= len(ranked):
        raise InputError(f"--place is {PLACE.value}; '{STUDY.value}' has {len(ranked)} ranked cells, the best is 1")
    chosen = ranked[PLACE.value - 1]
    return chosen.genotype, f'place {PLACE.value}: {percent(chosen):.2f} % mIoU'


def network_around(genotype: Genotype, config: ml_collections.ConfigDict, num_classes: int) -> Segmenter:
    """The config's network with this cell in it."""
    network = networks.make(config, num_classes)
    if not isinstance(network.context, DensePredictionCell):
        raise InputError(
            f"config.context.name is '{config.context.name}'; this script exports cells of the space dpc, and"
            ' export_network.py any network'
        )
    return network.clone(context=DensePredictionCell.of(genotype, network.context.settings))


def load_weights(config: ml_collections.ConfigDict, network: Segmenter) -> tuple[PyTree, str]:
    """The network's variables, and where they come from."""
    path = network_folder.CHECKPOINT.value or config.checkpoint
    if path and BACKBONE.value:
        raise InputError('give either --checkpoint, which has the backbone in it, or --backbone')
    if path or not BACKBONE.value:
        return network_folder.of_checkpoint(config, network, path)
    drawn = f'drawn from seed {config.seed}, not trained'
    shapes = {collection: parts['backbone'] for collection, parts in networks.variable_shapes(network).items()}
    held, _ = weights.load_backbone(
        shapes, pathlib.Path(BACKBONE.value).expanduser(), scope=network.backbone.official_scope
    )
    fresh = networks.init_variables(key_from_seed(config.seed), network)
    variables = {collection: parts | {'backbone': held[collection]} for collection, parts in fresh.items()}
    return variables, f'backbone from {BACKBONE.value}, all else {drawn}'


# ---- files ----------------------------------------------------------------------------------------------------------


def write(out: pathlib.Path, genotype: Genotype, *, title: str, program: bytes, texts: Mapping[str, str]) -> None:
    """Writes all of `FILES`."""
    space = Space(len(genotype.ops))
    (out / 'cell.json').write_text(space.to_json(genotype))
    for suffix in ('svg', 'png'):
        figures.draw_cell(space.graph(genotype), out / f'cell.{suffix}', title=title)
    (out / network_folder.PROGRAM).write_bytes(program)
    network_folder.write_loader(out)
    for name, text in texts.items():
        (out / name).write_text(text, encoding='utf-8')


def readme(facts: Mapping[str, str], config: ml_collections.ConfigDict, size: Size, classes: Sequence[str]) -> str:
    """What the folder holds, what it was made from, and what the numbers of the classes mean."""
    shape = f'[B, {size[0]}, {size[1]}'
    pool_crop = tuple(config.evaluate.image_pooling_crop_size)
    pooled = f'those of images of {pool_crop[0]}x{pool_crop[1]}' if any(pool_crop) else 'of the whole image'
    decoder = f', decoder at stride {config.decoder.output_stride}' if config.decoder.output_stride else ''
    lines = [
        *(f'{name}: {value}' for name, value in facts.items()),
        f'network: {config.backbone.name} of width {config.backbone.width},'
        f' output stride {config.backbone.output_stride}, '
        f'{config.context.filters} filters, {config.context.pooling} pooling{decoder}',
        f'pooling windows: {pooled}',
        f'made by: commit {provenance.commit() or "unknown"}, jax {jax.__version__}',
        '',
        'cell.json               the cell in the official format (dense_prediction_cell_branch5_top1_cityscapes.json)',
        'cell.svg, cell.png      the same, drawn',
        f'network.jaxexport       the network, weights inside, for {" and ".join(export.PLATFORMS)}:',
        f'                        {network_folder.IMAGE_DTYPE.value} {shape}, 3], RGB in 0..255, to a dict of',
        f'                        classes int32 {shape}] and logits float32 {shape}, {len(classes)}]',
        'network.json            which network it is, names and colours of its classes, what images it takes',
        'run_network.py          runs it: pip install jax flatbuffers numpy pillow',
        '                        python run_network.py photos/*.jpg --out=found     (images of any size)',
        '                        python run_network.py images.npy found.npz        (arrays of the size above)',
        '',
        'classes:',
        *(f'{index:3d} {name}' for index, name in enumerate(classes)),
    ]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
