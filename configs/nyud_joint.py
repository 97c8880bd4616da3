"""Depth and 40 classes on NYU Depth v2 from one decoder with two heads, as the authors' follow-up of arXiv:1810.10804.

As configs/nyud_depth.py, with L logits beside the distance; the loss is cross-entropy plus `task.depth_weight` times
the reverse Huber loss. A joint model of the authors (MobileNet-v2, Light-Weight RefineNet) has an RMSE of about
0.565 m, quoted from memory and not verified. Nothing is expected before a run; not timed here.

  python run.py --config=configs/nyud_joint.py --workdir=runs/nyud_joint --config.dataset.root=/data/nyudv2 \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz
  python run.py --config=configs/nyud_joint.py:toy --workdir=runs/nyud_joint_toy   (drawn images; mostly compilation)
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.aux_network_config()
    config.task = common.depth_task()
    config.task.name = 'depth_segmentation'
    config.task.depth_weight = 1.0
    common.nyud_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
        config.context.auxiliary = 'conv'  # half of the compilation is that of auxiliary cells
    return config
