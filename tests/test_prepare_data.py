"""Is a copy of a data set whole: everything that is wrong is counted and named."""

import types

import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import pascal_context
from dpc_jax import datasets, drawn_data
from dpc_jax.base import InputError
from dpc_jax.datasets import _packed, camvid
from tests import scripts
from tests.test_experiments import finish

common, data_folder, prepare_data = map(scripts.load, ('common', 'data_folder', 'prepare_data'))

SCRIPT = 'experiments/prepare_data.py'


@pytest.fixture
def root(tmp_path):
    drawn_data.write('camvid', tmp_path / 'camvid', 4)
    return tmp_path / 'camvid'


def config_of(root):
    return ml_collections.ConfigDict({'name': 'camvid', 'root': str(root)})


def load(root, split='train'):
    return datasets.load('camvid', config_of(root), split)


def spoil(root):
    """One image is cut off, one label has a value that is none, one has another size."""
    files = load(root).files
    files[0][0].write_bytes(files[0][0].read_bytes()[:60])
    Image.fromarray(np.full((72, 96), 99, np.uint8)).save(files[1][1])
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(files[2][1])
    return files


def test_classes_are_counted_by_pixel(root):
    dataset = load(root)
    found = prepare_data.check(dataset)
    labels = np.stack([example.label for example in dataset])
    expected = [(labels == value).sum() for value in (*range(11), 255)]
    np.testing.assert_array_equal(found.pixels, [*expected, 0, 0])  # there are no distances
    assert (found.count, found.faults, dict(found.sizes)) == (4, (), {(72, 96): 4})
    shares = prepare_data.histogram([found], camvid.CamVid)
    assert f'| sky | {100 * expected[0] / labels.size:.3f} |' in shares
    assert f'| not labelled | {100 * expected[-1] / labels.size:.3f} |' in shares


def test_every_fault_is_listed(root):
    files = spoil(root)
    found = prepare_data.check(load(root))
    assert len(found.faults) == 3
    for fault, path in zip(found.faults, (files[0][0], files[1][1], files[2][1]), strict=True):
        assert str(path) in fault
    text = prepare_data.report([found], {'test': 'there is no list'}, camvid.CamVid, 'root')
    assert all(fault in text for fault in found.faults)
    assert '| train | 4 | **367** | 3 | 72x96 |' in text
    assert '| test | absent | 233 | | there is no list |' in text
    assert not prepare_data.is_whole(found, camvid.CamVid)


def test_the_contact_sheet_has_whole_images_and_their_labels(root, tmp_path):
    spoil(root)
    dataset = load(root)
    sheet = prepare_data.contact_sheet(dataset, 4)
    pictures = [axes.images[0].get_array() for axes in sheet.axes if axes.images]
    assert len(pictures) == 2
    np.testing.assert_array_equal(pictures[0], dataset[3].image)
    mixed = prepare_data.overlay(dataset, dataset[3].image, dataset[3].label)
    np.testing.assert_array_equal(pictures[1], mixed)
    known = dataset[3].label != 255
    expected = 0.6 * dataset.palette[dataset[3].label[known]] + 0.4 * dataset[3].image[known]
    np.testing.assert_array_equal(mixed[known], np.rint(expected))
    sheet.savefig(tmp_path / 'sheet.png')
    for image, _ in dataset.files:
        image.write_bytes(b'')
    assert prepare_data.contact_sheet(dataset, 4) is None


def test_splits_that_are_not_there_are_told(root):
    (root / 'test.txt').unlink()
    there, absent, _ = data_folder.opened(config_of(root), ())
    assert [dataset.split for dataset in there] == ['train', 'val', 'trainval']
    assert absent['test'].startswith(prepare_data.ABSENT)
    with pytest.raises(InputError, match='there is no list file'):
        data_folder.opened(config_of(root), ('test',))
    with pytest.raises(InputError, match="unknown split 'dev'"):
        data_folder.opened(config_of(root), ('dev',))


def test_the_exit_code_says_how_it_is(root, tmp_path):
    # The drawn counts are not the published ones.
    code, out, err = finish(SCRIPT, '--dataset=camvid', f'--root={root}', f'--out={tmp_path / "out"}', '--images=2')
    assert (code, err) == (1, '')
    assert '| train | 4 | **367** | 0 | 72x96 |' in out
    assert {path.name for path in (tmp_path / 'out').iterdir()} >= {'report.md', 'train.png', 'val.png'}
    code, out, err = finish(SCRIPT, '--dataset=camvid', '--root=/absent')
    assert (code, out, err) == (2, '', 'error: dataset.root: there is no folder /absent\n')
    code, out, err = finish(SCRIPT)
    assert (code, err.count('\n')) == (2, 1)
    assert 'pascal_voc' in err


def test_genuine_images_are_whole(shared, tmp_path):
    found = prepare_data.check(load(shared('data/camvid'), 'val'))
    assert prepare_data.is_whole(found, camvid.CamVid)
    assert found.count == 101


def test_a_config_names_own_data(tmp_path, monkeypatch):
    """Its fields count, --root takes the place of its folder, and the published counts are its own."""
    config = pascal_context.get_config('toy')
    drawn_data.write('folders', tmp_path / 'context', 2, config=config.dataset)
    (tmp_path / 'context/dataset.json').unlink()
    for name, value in (('DATASET', ''), ('ROOT', str(tmp_path / 'context'))):
        monkeypatch.setattr(data_folder, name, types.SimpleNamespace(value=value))
    monkeypatch.setattr(common, 'CONFIG', types.SimpleNamespace(value=config))
    chosen = data_folder.chosen()
    assert config.dataset.root == ''
    there, absent, kind = data_folder.opened(chosen, ())
    assert ([dataset.split for dataset in there], absent) == (['train', 'val'], {})
    found = [prepare_data.check(dataset) for dataset in there]
    assert [checked.faults for checked in found] == [(), ()]
    assert '| train | 2 | **4998** | 0 | 72x96 |' in prepare_data.counts_table(found, absent, kind)
    sets = {dataset.split: dataset for dataset in there}
    _packed.write(sets, tmp_path / 'context', tmp_path / 'pack', track=lambda items, *_: iter(items))
    monkeypatch.setattr(data_folder, 'ROOT', types.SimpleNamespace(value=str(tmp_path / 'pack')))
    packed, _, kind = data_folder.opened(data_folder.chosen(), ())
    assert [prepare_data.check(dataset).pixels.tolist() for dataset in packed] == [c.pixels.tolist() for c in found]
    monkeypatch.setattr(data_folder, 'DATASET', types.SimpleNamespace(value='camvid'))
    with pytest.raises(InputError, match="--dataset is 'camvid'; needed are a data set"):
        data_folder.chosen()


@pytest.mark.parametrize(
    ('name', 'said'), [('mpii', 'Shares of the joints in %'), ('nyudv2', 'Distances that are missing')]
)
def test_people_and_distances_are_counted_and_drawn(name, said, drawn):
    config = ml_collections.ConfigDict({'name': name, 'root': str(drawn(name)), 'depth_scale': 5000.0})
    dataset = datasets.load(name, config, 'val')
    found = prepare_data.check(dataset)
    text = prepare_data.report([found], {}, type(dataset), 'here')
    assert said in text
    if name == 'mpii':
        visible = np.stack([example.person.visible for example in dataset])
        np.testing.assert_array_equal(found.pixels[:16], visible.sum(0))
        assert found.pixels[16] == (visible == 0).sum()
    else:
        missing = np.stack([example.depth for example in dataset]) == 0
        assert found.pixels[-2:].tolist() == [missing.sum(), (~missing).sum()]
    sheet = prepare_data.contact_sheet(dataset, 2)
    shown = [axes for axes in sheet.axes if axes.get_images()]
    assert len(shown) == 2 * (2 if name == 'mpii' else 3)
