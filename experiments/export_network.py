"""A whole network of any task as a program that runs without this project: weights inside, images in, findings out.

  python experiments/export_network.py --config=configs/from_checkpoint.py --checkpoint=runs/nyud_arch0/weights \\
    --image_size=481x641 --out=runs/nyud_arch0/program
  python experiments/export_network.py --config=configs/mpii_pose.py --checkpoint=runs/mpii_arch0/weights --out=...

Any context (auxiliary cells, a dense prediction cell, ASPP) and any task; auxiliary heads are left out, since nothing
reads them. The size of images is that of --image_size or config.evaluate.crop_size; of poses it is that of the crops.
`export_cell.py` exports a found cell with its drawing and JSON beside it.
"""

import pathlib
from collections.abc import Mapping, Sequence

import jax
from absl import app, flags

from dpc_jax import command_line, described, evaluation, export, files, provenance
from dpc_jax.base import InputError, Size
from experiments import common, network_folder

OUT = flags.DEFINE_string('out', '', 'Folder; what this script wrote there before is replaced.')

FILES = (network_folder.PROGRAM, described.FILE, network_folder.LOADER, 'README.txt')

flags.adopt_module_key_flags(common)  # so that --help lists them
flags.adopt_module_key_flags(network_folder)


def main(argv: Sequence[str]) -> None:
    """Refuses what is wrong, makes the program, writes it."""
    del argv
    config = common.CONFIG.value
    if config is None or not OUT.value:
        raise InputError('--config and --out are needed; --help explains them')
    common.check_whole_network(config)
    path, out = network_folder.CHECKPOINT.value or config.checkpoint, pathlib.Path(OUT.value).expanduser()
    if not path:
        raise InputError('--checkpoint is empty; give the folder of weights that a training wrote')
    network_folder.check(out, FILES)
    config = described.settled(config, files.local(path, 'checkpoint'), with_data=False)
    task = described.found_task(config, files.local(path, 'checkpoint'))
    network = evaluation.make_network(config, task.channels)
    size = network_folder.size_of_images(task.fields().get('size', tuple(config.evaluate.crop_size)))
    export.check_size(size, network.output_stride)
    pool_crop = evaluation.inference_settings(config, size).pool_crop
    variables, origin = network_folder.of_checkpoint(config, network, path, with_data=False)
    files.make_folder(out, '--out')
    program = export.program(
        network, task, variables, size=size, dtype=network_folder.IMAGE_DTYPE.value, pool_crop=pool_crop
    )
    held = described.read(files.local(path, 'checkpoint')) or described.of(config)
    facts = {'weights': origin, 'task': task.name, 'gives': ', '.join(task.names)}
    (out / network_folder.PROGRAM).write_bytes(program)
    network_folder.write_loader(out)
    for name, text in {'README.txt': readme(facts, size), **described.files(held)}.items():
        (out / name).write_text(text, encoding='utf-8')
    print('\n'.join([*(f'{name}: {value}' for name, value in facts.items()), *(str(out / name) for name in FILES)]))


def readme(facts: Mapping[str, str], size: Size) -> str:
    """What the folder holds, and how it is run."""
    lines = [
        *(f'{name}: {value}' for name, value in facts.items()),
        f'made by: commit {provenance.commit() or "unknown"}, jax {jax.__version__}',
        '',
        f'network.jaxexport       the network, weights inside, for {" and ".join(export.PLATFORMS)}:',
        f'                        {network_folder.IMAGE_DTYPE.value} [B, {size[0]}, {size[1]}, 3], RGB in 0..255,',
        '                        to a dict of arrays',
        'network.json            which network and task it is, names and colours of what it gives',
        'run_network.py          runs it: pip install jax flatbuffers numpy pillow',
        '                        python run_network.py photos/*.jpg --out=found     (images of any size)',
        '                        python run_network.py images.npy found.npz        (arrays of the size above)',
    ]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
