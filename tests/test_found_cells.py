"""Cells of `configs/cells` are named like those that a space knows, wherever a name is taken."""

import ml_collections
import numpy as np
import pytest

from configs import camvid, scenes_search
from dpc_jax import assembly, cell_files, contexts, found_cells
from dpc_jax.base import InputError
from dpc_jax.spaces.dpc import Space, make_genotype

CELL = make_genotype([-1, 0, 0, 2, 3], [3, 70, 12, 0, 5])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(found_cells, 'FOLDER', tmp_path / 'configs/cells')
    return found_cells.FOLDER


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def network(genotype):
    config = camvid.get_config('toy')
    config.context.genotype = genotype
    return config


def test_a_kept_cell_is_found_by_name_everywhere(folder):
    space = Space(5)
    assert found_cells.names() == ()
    path = found_cells.keep(space, 'street-1', CELL)
    assert path == folder / 'street-1.json'
    assert found_cells.names() == ('street-1',)
    assert same(found_cells.named(space, 'street-1'), CELL)
    assert same(found_cells.named(space, 'aspp'), space.named('aspp'))
    (read,) = cell_files.read_cells(['street-1'], space)
    assert read.name == 'street-1'
    assert same(read.genotype, CELL)
    near = cell_files.read_cells(['near:street-1'], space)
    assert len(near) == sum(map(len, space.neighbours_by_gene(CELL).values()))
    assert contexts.make(network('street-1')) == contexts.make(network(space.to_json(CELL)))
    config: ml_collections.ConfigDict = scenes_search.get_config('toy')
    config.space.num_branches = 5
    config.search.references = ('street-1', 'conv1x1')
    assembly.check(config)


def test_names_of_the_space_are_not_taken_and_cells_not_replaced():
    space = Space(5)
    found_cells.keep(space, 'mine', CELL)
    found_cells.keep(space, 'mine', CELL)  # the same cell again
    with pytest.raises(InputError, match=r"^another cell is named 'mine'; found cells: mine$"):
        found_cells.keep(space, 'mine', space.named('aspp'))
    with pytest.raises(InputError, match=r"^the space itself names a cell 'aspp'; its names: dpc_top1, aspp, conv1x1$"):
        found_cells.keep(space, 'aspp', CELL)
    for name in ('named', 'winner'):
        with pytest.raises(InputError, match=rf"^a cell cannot be named '{name}'; these words mean something else"):
            found_cells.keep(space, name, CELL)
    for name in ('../x', 'a b', '', '1st'):
        with pytest.raises(InputError, match=r'^a cell cannot be named .*; allowed: letters, digits'):
            found_cells.keep(space, name, CELL)


def test_a_name_that_nothing_has_lists_all_of_them(folder):
    space = Space(5)
    found_cells.keep(space, 'mine', CELL)
    with pytest.raises(InputError, match=r"^no cell is named 'his'; allowed: dpc_top1, aspp, conv1x1, mine$"):
        found_cells.named(space, 'his')
    with pytest.raises(InputError, match=r'one of dpc_top1, aspp, conv1x1, mine$'):
        contexts.make(network('his'))
    with pytest.raises(InputError, match=r'NAME|takes one of these names: dpc_top1, aspp, conv1x1, mine$'):
        cell_files.read_cells(['near:his'], space)
    with pytest.raises(InputError, match=r"^cell 'mine': 5 branches; allowed here: 2$"):
        found_cells.named(Space(2), 'mine')
    (folder / 'mine.json').write_text('[{"op": "nothing"}]')
    with pytest.raises(InputError, match=r"^cell 'mine'.*: "):
        found_cells.named(space, 'mine')


@pytest.mark.parametrize('path', sorted((found_cells.FOLDER).glob('*.json')), ids=lambda path: path.stem)
def test_every_cell_that_ships_is_of_its_space(path):
    Space(5).from_json(path.read_text(), str(path))
