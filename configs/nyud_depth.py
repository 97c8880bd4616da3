"""Depth on NYU Depth v2 with a decoder of auxiliary cells (Nekrasov et al., CVPR 2019, arXiv:1810.10804).

MobileNet-v2 and arch0 with one channel, the distance in metres. The paper's RMSE is about 0.52 to 0.53 m for all three
of its decoders (quoted from memory, not verified); the recipe is not published. What is taken here: reverse Huber loss
over pixels that have a distance and 795 images for training, as in the authors' multi-task code; SGD with 1e-3 for the
encoder and 1e-2 for the rest, weight decay 1e-5, as there; poly learning rates, crops and steps are our choice. Nothing
is expected before a run; not timed here.

  python run.py --config=configs/nyud_depth.py --workdir=runs/nyud_arch0 --config.dataset.root=/data/nyudv2 \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz
  python run.py --config=configs/nyud_depth.py:toy --workdir=runs/nyud_toy   (drawn images; mostly compilation)

The root holds nyu_depth_v2_labeled.mat and splits.mat, or lists of PNG files (docs/tasks.md).
--config.context.genotype takes arch1, arch2, a decoder of configs/cells or a file; --config.task.crop=eigen judges the
window of Eigen et al. alone.
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.aux_network_config()
    config.task = common.depth_task()
    nyud_recipe(config)
    if common.words(arg, 'toy'):
        shrink(config)
    return config


def nyud_recipe(config: ml_collections.ConfigDict) -> None:
    """Data and training, whether for depth alone or with labels."""
    config.dataset.name = 'nyudv2'
    config.dataset.depth_scale = 5000.0  # of PNG files: the value that stands for a metre
    config.dataset.reduce_zero_label = False  # True where labels are 1..40, and 0 is unknown
    config.train.steps = 20_000
    config.train.crop_size = (449, 449)
    config.train.scales = (0.7, 0.85, 1.0, 1.2, 1.4)
    config.train.evaluate_every = 1_000
    config.train.ema_decay = 0.99
    for part in ('backbone', 'context', 'logits', 'auxiliary'):
        rate = 0.001 if part == 'backbone' else 0.01
        config.train.parts[part] = {
            **{'optimizer': 'sgd', 'learning_rate': rate, 'momentum': 0.9, 'weight_decay': 1e-5},
        }


def shrink(config: ml_collections.ConfigDict) -> None:
    """Seconds on drawn rooms."""
    common.shrink_network(config)
    for part in config.train.parts:
        config.train.parts[part].learning_rate = 0.001
