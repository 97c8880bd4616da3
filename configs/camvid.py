"""Whole networks on CamVid: 11 classes, images of 360x480 (README, "CamVid", says where to get it).

MobileNet-v2 with the released cell and no decoder, as in Table 1 of the paper (arXiv:1809.04184). No numbers are
published for it on this data set. --config.context.name=aspp is the baseline.

  python run.py --config=configs/camvid.py --workdir=runs/camvid_net \\
    --config.dataset.root=/data/camvid --config.checkpoint=/data/imported
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset.name = 'camvid'
    config.decoder.output_stride = 0
    config.evaluate.crop_size = (0, 0)
    config.train.steps = 240
    config.train.batch_size = 8
    config.train.crop_size = (225, 289)
    config.train.learning_rate = 0.003
    config.train.last_layer_gradient_multiplier = 30.0
    config.train.bn_decay = 0.95
    config.train.workers = 1
    config.train.log_every = 10
    config.train.evaluate_every = 80
    config.train.checkpoint_every = 40
    if common.words(arg, 'toy'):
        common.shrink_network(config)
    return config
