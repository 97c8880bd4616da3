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
    common.nyud_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
        config.context.auxiliary = 'conv'  # half of the compilation is that of auxiliary cells
    return config
