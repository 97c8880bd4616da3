"""Every config of the tasks, as it is at toy size, with its own network: a step on drawn data in the real folders."""

import pytest

from configs import coco_pose, mpii_pose, nyud_depth, nyud_joint
from dpc_jax import sharding
from dpc_jax.journeys import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compilation')]


@pytest.mark.parametrize(
    ('config', 'arg'), [(nyud_depth, 'toy'), (nyud_joint, 'toy'), (mpii_pose, 'toy'), (coco_pose, 'deeplab,toy')]
)
def test_every_toy_trains_on_drawn_data_in_the_real_folders(config, arg, tmp_path, monkeypatch):
    one = sharding.data_mesh(1)  # is compiled in half the time of four
    for name in ('data_mesh', 'local_mesh'):
        monkeypatch.setattr(sharding, name, lambda: one)
    made = config.get_config(arg)
    made.train.steps, made.evaluate.pictures = 1, 1
    found = train.run(made, tmp_path)
    assert (tmp_path / 'data' / made.dataset.name).is_dir()
    assert found.row['task'] == made.task.name
