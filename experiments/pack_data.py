"""A data set packed into few large files, for storage that many hosts share; TensorFlow is not needed.

  python experiments/pack_data.py --dataset=cityscapes --root=/data/cityscapes --out=/shared/cityscapes_packed

Then --config.dataset.root=/shared/cityscapes_packed is the same data set: equal examples in equal order, and a
fingerprint that is that of the folder. The files are a TensorFlow Datasets data set (array_record), which
`tfds.builder_from_directory` opens as well.
"""

import functools
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags
from rich.console import Console

from dpc_jax import command_line
from dpc_jax.base import InputError
from dpc_jax.datasets import _packed
from dpc_jax.progress import track
from experiments import common, data_folder
from experiments.data_folder import SPLITS

OUT = flags.DEFINE_string('out', '', 'Folder for the pack; it must not be there.')

flags.adopt_module_key_flags(data_folder)  # so that --help lists them


def main(argv: Sequence[str]) -> None:
    """Packs what is there of the data set."""
    del argv
    config = data_folder.chosen('--root, --out')
    if not OUT.value or not config.root:
        raise InputError('--root and --out are needed; --help explains them')
    root, out = (pathlib.Path(name).expanduser() for name in (config.root, OUT.value))
    there, absent, _ = data_folder.opened(config, SPLITS.value)
    for why in (why for split, why in absent.items() if split in SPLITS.value):
        raise InputError(why)
    shown = functools.partial(track, console=Console(file=sys.stdout))
    sizes = _packed.write({dataset.split: dataset for dataset in there}, root, out, track=shown)
    for dataset in there:
        what = 'people' if 'joints' in dataset.targets else 'images'
        print(f'{dataset.split}: {len(dataset)} {what}, {sizes[dataset.split] / 1e6:.1f} MB')
    for split, why in absent.items():
        print(f'{split}: not packed, {why}')
    print(out)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
