"""Pretraining on COCO, from which all experiments of the paper start (Chen et al. 2018, arXiv:1809.04184, §4).

The instances of the 20 classes of PASCAL VOC, on images with more than 1,000 annotated pixels of them (DeepLabv3,
arXiv:1706.05587 §4). 500K steps of batch 16, LR 0.007; by the authors 300K suffice (tensorflow/models issue 4234). No
mIoU is published for this step. Not timed here.

  python run.py --config=configs/coco.py --workdir=runs/coco --config.dataset.root=/data/coco \\
    --config.train.init.checkpoint=xception_71_2018_05_09.tar.gz --config.train.init.parts=backbone
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset.name = 'coco'
    config.backbone.name = 'xception_71'
    config.train.steps = 500_000
    config.train.crop_size = (513, 513)
    config.train.learning_rate = 0.007
    config.train.evaluate_every = 20_000
    if common.words(arg, 'toy'):
        common.shrink_network(config)
    return config
