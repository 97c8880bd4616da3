"""A network that left the house: the program alone, and the script that writes it beside its cell."""

import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import camvid
from dpc_jax import datasets, described, export, networks, ops
from dpc_jax.base import InputError
from dpc_jax.spaces import dpc
from dpc_jax.weights import checkpoint
from tests import scripts, small
from tests.networks_by_hand import filled

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
CAMVID = ml_collections.ConfigDict({'name': 'camvid'})
SIZE = (33, 49)
CLASSES = 11
PHOTOS = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3)).astype(np.uint8)


def network_of(genotype='dpc_top1', **fields):
    config = camvid.get_config('toy')
    config.context.genotype = genotype
    config.update_from_flattened_dict(fields)
    return networks.make(config, CLASSES)


def expected(network, variables, images, pool_crop=None):
    """Logits of the network as it is used here, resized to the images."""

    @jax.jit
    def run(images):
        logits = network.apply(variables, images, False, None, pool_crop)
        return ops.resize_bilinear(logits, images.shape[1:3])

    return np.asarray(run(jnp.asarray(images, jnp.float32)))


def assert_close(found, logits):
    """As two compilations agree in float32."""
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4 * logits.std())


def call(data, images):
    found = jax.jit(jax.export.deserialize(bytearray(data)).call)(images)
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.fixture(scope='module')
def network():
    return network_of('aspp')  # it pools


@pytest.fixture(scope='module')
def variables(network):
    found = filled(network, seed=1)
    middle = expected(network, found, PHOTOS).mean((0, 1, 2))
    found['params']['logits']['bias'] -= middle  # else one class is everywhere
    return found


@pytest.fixture(scope='module')
def program(network, variables):
    return export.program(network, small.task(network.num_classes), variables, size=SIZE)


# ---- the program ----------------------------------------------------------------------------------------------------


def test_the_program_is_the_network_for_any_number_of_images(network, variables, program):
    logits = expected(network, variables, PHOTOS)
    found = call(program, PHOTOS)
    assert_close(found['logits'], logits)
    np.testing.assert_array_equal(found['classes'], found['logits'].argmax(-1))
    assert found['classes'].dtype == np.int32
    assert len(np.unique(found['classes'])) > 2
    one = call(program, PHOTOS[1:2])
    assert_close(one['logits'], logits[1:2])


def test_images_may_be_floats_and_pooling_windows_those_of_a_crop(network, variables):
    images, crop = PHOTOS + np.float32(0.25), (17, 33)
    data = export.program(
        network, small.task(network.num_classes), variables, size=SIZE, dtype='float32', pool_crop=crop
    )
    logits = expected(network, variables, images, crop)
    assert_close(call(data, images)['logits'], logits)
    assert np.abs(logits - expected(network, variables, images)).max() > 1e-3 * logits.std()


def test_the_program_is_for_both_platforms_and_names_no_file_of_this_machine(program):
    assert jax.export.deserialize(bytearray(program)).platforms == ('cpu', 'cuda')
    assert not re.findall(rb'[\w./-]+\.py\b', program)


@pytest.mark.parametrize(
    ('size', 'said'),
    [
        ((64, 97), 'such as 49x97 or 65x97'),
        ((65, 98), 'such as 65x97 or 65x113'),
        ((1, 17), 'such as 17x17 or 17x17'),
    ],
)
def test_corners_must_fall_on_corners(network, variables, size, said):
    with pytest.raises(InputError, match=f'image size {size[0]}x{size[1]}: .* output stride 16 plus 1, {said}'):
        export.program(network, small.task(network.num_classes), variables, size=size)


def test_images_are_bytes_or_floats(network, variables):
    with pytest.raises(InputError, match="type of the images 'int8'; allowed: uint8, float32"):
        export.program(network, small.task(network.num_classes), variables, size=SIZE, dtype='int8')


# ---- the script -----------------------------------------------------------------------------------------------------

ALONE = """
import runpy, sys
for name in ('dpc_jax', 'flax', 'experiments', 'configs'):
    sys.modules[name] = None  # to import it is an error
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def export_cell(*argv):
    command = [sys.executable, 'experiments/export_cell.py', '--config=configs/camvid.py:toy', *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


def run_alone(folder, elsewhere, *argv):
    """What run_network.py prints, in a process that can import neither this project nor Flax."""
    command = [sys.executable, '-c', ALONE, str(folder / 'run_network.py'), *argv]
    done = subprocess.run(command, cwd=elsewhere, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


def test_a_cell_leaves_as_json_drawings_and_a_network_that_runs_without_this_package(tmp_path, network, variables):
    config = camvid.get_config('toy')
    config.context.genotype = 'aspp'
    checkpoint.save(tmp_path / 'weights', variables, beside=described.files(described.of(config)))
    folder, elsewhere = tmp_path / 'cell', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    folder.mkdir()
    (folder / 'cell.json').write_text('of an earlier export')
    size = f'--image_size={SIZE[0]}x{SIZE[1]}'
    out = export_cell('--genotype=aspp', f'--checkpoint={tmp_path / "weights"}', size, f'--out={folder}')
    assert f'weights: checkpoint {tmp_path / "weights"}' in out
    space = dpc.Space(5)
    assert (folder / 'cell.json').read_text() == space.to_json(space.named('aspp'))
    assert '<svg' in (folder / 'cell.svg').read_text()
    assert (folder / 'cell.png').read_bytes().startswith(b'\x89PNG')
    told = (folder / 'README.txt').read_text()
    assert 'uint8 [B, 33, 49, 3]' in told
    assert ' 10 bicyclist\n' in told
    shutil.move(folder, tmp_path / 'moved')
    np.save(elsewhere / 'images.npy', PHOTOS)
    run_alone(tmp_path / 'moved', elsewhere, 'images.npy', 'found.npz')
    found = np.load(elsewhere / 'found.npz')
    logits = expected(network, variables, PHOTOS)
    assert_close(found['logits'], logits)
    np.testing.assert_array_equal(found['classes'], found['logits'].argmax(-1))
    assert described.read(tmp_path / 'moved') == described.of(config)

    # Image files: of the program's size as the array is, of any other size padded or in tiles.
    images = {'fits': PHOTOS[0], 'small': PHOTOS[1][:20, :30], 'large': np.tile(PHOTOS[0], (2, 2, 1))[:50, :90]}
    for name, image in images.items():
        Image.fromarray(image).save(elsewhere / f'{name}.png')
    out = run_alone(tmp_path / 'moved', elsewhere, *(f'{name}.png' for name in images), '--out=labels')
    assert out.count(' %') >= 3
    labels = {name: Image.open(elsewhere / f'labels/{name}.png') for name in images}
    np.testing.assert_array_equal(labels['fits'], found['classes'][0])
    for name, image in images.items():
        assert np.asarray(labels[name]).shape == image.shape[:2]
    assert labels['fits'].getpalette()[:33] == np.asarray(datasets.kind(CAMVID).palette).ravel().tolist()
    padded = np.full((1, *SIZE, 3), 127, np.uint8)
    padded[0, :20, :30] = images['small']
    np.testing.assert_array_equal(labels['small'], expected(network, variables, padded)[0, :20, :30].argmax(-1))


@pytest.mark.slow
def test_a_cell_of_a_search_by_its_place_on_the_backbone_of_the_search(toy_search, tmp_path):
    workdir, _ = toy_search
    (backbone,) = workdir.glob('backbone-*.npz')
    with (workdir / 'report/ranking.csv').open() as file:
        third = [row for row in csv.DictReader(file) if row['rank']][2]
    size = f'--image_size={SIZE[0]}x{SIZE[1]}'
    files = (f'--workdir={workdir}', f'--backbone={backbone}', f'--out={tmp_path / "cell"}')
    out = export_cell('--place=3', *files, size)
    assert f'cell: {third["key"]} (place 3: {100 * float(third["score"]):.2f} % mIoU)' in out
    assert 'drawn from seed 0, not trained' in out
    assert json.loads((tmp_path / 'cell/cell.json').read_text()) == json.loads(third['genotype'])
    network = network_of(str(tmp_path / 'cell/cell.json'))
    fresh = networks.init_variables(jax.random.key(0), network)
    parts = {collection: tree['backbone'] for collection, tree in fresh.items()}
    held, _ = checkpoint.load_backbone(parts, backbone)
    variables = {collection: tree | {'backbone': held[collection]} for collection, tree in fresh.items()}
    logits = expected(network, variables, PHOTOS)
    found = call((tmp_path / 'cell/network.jaxexport').read_bytes(), PHOTOS)
    assert_close(found['logits'], logits)
    assert np.abs(logits - expected(network, fresh, PHOTOS)).max() > 1e-3 * logits.std()


# Each command in a child of one process that has imported everything: an import takes seconds.
FORKS = """
import json, os, sys
from absl import app
from dpc_jax import command_line
from experiments import common, export_cell

for argv in json.loads(sys.argv[1]):
    if not os.fork():
        sys.argv = ['export_cell.py', *argv]
        try:
            app.run(common.one_line_errors(export_cell.main), flags_parser=command_line.parse_flags)
        except SystemExit as stopped:
            os._exit(stopped.code)  # at once: to take the interpreter down takes a second
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""

TOY = '--config=configs/camvid.py:toy'
CELL = (TOY, '--genotype=dpc_top1')
FITS = '--image_size=33x49'
BAD = [
    (
        ('--config=configs/camvid_search.py', '--genotype=dpc_top1', '--out=OUT'),
        '--config names no whole network; configs/camvid.py and configs/cityscapes.py do',
    ),
    ((), '--config and --out are needed'),
    (('--genotype=dpc_top1', '--out=OUT'), '--config and --out are needed'),
    ((TOY, '--out=OUT'), 'give either --workdir or --storage (of a search) or --genotype'),
    ((*CELL, '--workdir=absent', '--out=OUT'), 'give either --workdir or --storage (of a search) or --genotype'),
    ((*CELL, '--out=TMP/file'), "file' is a file"),
    ((*CELL, '--out=TMP/full'), 'holds notes.txt, which this script did not write'),
    ((TOY, '--workdir=absent', '--out=OUT'), 'there is no storage'),
    ((TOY, '--genotype=absent.json', '--out=OUT'), "'absent.json': No such file or directory"),
    ((TOY, '--genotype=TMP/faulty.json', FITS, '--out=OUT'), 'faulty.json: branch 0: rate [2, 1]; allowed: (1, 3'),
    ((*CELL, '--out=OUT'), '--image_size is needed'),
    ((*CELL, '--image_size=33', '--out=OUT'), "--image_size is '33'; it must be HEIGHTxWIDTH"),
    ((*CELL, '--image_size=32x49', '--out=OUT'), 'image size 32x49: each side must be'),
    ((*CELL, '--image_dtype=int8', FITS, '--out=OUT'), '--image_dtype=int8'),
    (
        (*CELL, '--config.context.name=aspp', FITS, '--out=OUT'),
        "config.context.name is 'aspp'; this script exports cells of the space dpc, and export_network.py any network",
    ),
    ((*CELL, '--config.backbone.output_stride=32', FITS, '--out=OUT'), 'output stride 32'),
    ((*CELL, '--config.dataset.name=kitti', FITS, '--out=OUT'), "unknown data set 'kitti'"),
    ((*CELL, '--checkpoint=a', '--backbone=b', FITS, '--out=OUT'), 'give either --checkpoint'),
    ((*CELL, '--checkpoint=absent', FITS, '--out=OUT'), 'no such folder'),
    ((*CELL, '--backbone=absent.npz', FITS, '--out=OUT'), "weights file 'absent.npz'"),
]


def refusals(commands):
    argvs = json.dumps([list(map(str, argv)) for argv in commands])
    command = [sys.executable, '-W', 'ignore', '-c', FORKS, argvs]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True)


def test_bad_input_is_one_line_each_and_nothing_is_written(tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/notes.txt').touch()
    (tmp_path / 'faulty.json').write_text('[{"op": "conv", "kernel": 3, "rate": [2, 1], "input": -1}]')
    places = {'OUT': str(tmp_path / 'out'), 'TMP': str(tmp_path)}
    done = refusals([[re.sub('OUT|TMP', lambda m: places[m[0]], word) for word in argv] for argv, _ in BAD])
    lines = done.stderr.splitlines()
    assert len(lines) == len(BAD), done.stderr
    for line, (argv, said) in zip(lines, BAD, strict=True):
        assert said in line, argv
    assert done.stdout.split() == ['2'] * len(BAD)
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_place_that_nobody_has_is_refused_with_how_many_there_are(toy_search, tmp_path):
    workdir, _ = toy_search
    with (workdir / 'report/ranking.csv').open() as file:
        ranked = len({row['key'] for row in csv.DictReader(file) if row['rank']})
    common = (TOY, f'--workdir={workdir}', FITS, f'--out={tmp_path / "out"}')
    done = refusals([(*common, f'--place={place}') for place in (0, ranked + 1)] + [(*common, '--study=absent')])
    first, second, third = done.stderr.splitlines()
    assert first == f"error: --place is 0; 'dpc-proxy' has {ranked} ranked cells, the best is 1"
    assert second.startswith(f'error: --place is {ranked + 1};')
    assert "no study 'absent'" in third
    assert done.stdout.split() == ['2'] * 3


def test_an_image_that_is_too_large_is_passed_over_and_the_others_are_not(tmp_path, monkeypatch, capsys):
    """The loader alone, with a program that finds class 1 everywhere."""
    loader = scripts.module_at(ROOT / 'experiments/run_network.py')
    takes = jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8)
    monkeypatch.setattr(loader, 'HERE', tmp_path)
    monkeypatch.setattr(
        loader, 'load', lambda: (takes, lambda images: {'logits': np.eye(2)[[1] * 64].reshape(1, 8, 8, 2)})
    )
    (tmp_path / 'network.json').write_text(json.dumps({'classes': ['a', 'b'], 'palette': [[0, 0, 0], [9, 9, 9]]}))
    for name, side in (('small', 8), ('huge', 40), ('last', 8)):
        Image.new('RGB', (side, side)).save(tmp_path / f'{name}.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 64)
    paths = [str(tmp_path / f'{name}.png') for name in ('small', 'huge', 'last')]
    assert loader.run_images(paths, tmp_path / 'found') == 1
    assert 'huge.png: ' in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / 'found').iterdir()) == ['last.png', 'small.png']
    with pytest.raises(SystemExit, match=r'is that of .*small\.png, too; give one of them with another --out'):
        loader.run_images([paths[0], str(tmp_path / 'sub/small.png')], tmp_path / 'found')
