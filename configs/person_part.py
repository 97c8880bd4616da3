"""PASCAL-Person-Part (Chen et al. 2018, arXiv:1809.04184, Table 3): six parts of persons and background, crops of 513.

The paper's DPC has 71.34 mIoU on val, at several scales. It gives no schedule for this set: that of the first stage on
PASCAL VOC is taken (DeepLabv3, arXiv:1706.05587 §4), on 1,716 images. Not timed here.

  python run.py --config=configs/person_part.py --workdir=runs/person_part --config.dataset.root=/data/person_part \\
    --config.train.init.checkpoint=runs/coco/weights
  python run.py --config=configs/person_part.py --workdir=runs/person_part_scales --config.journey=evaluate \\
    --config.dataset.root=/data/person_part --config.checkpoint=runs/person_part/weights \\
    --config.evaluate.flip=True --config.evaluate.scales="(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)"
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset.name = 'person_part'
    config.backbone.name = 'xception_71'
    config.evaluate.crop_size = (513, 513)
    config.train.steps = 30_000
    config.train.crop_size = (513, 513)
    config.train.learning_rate = 0.007
    if common.words(arg, 'toy'):
        common.shrink_network(config)
        config.evaluate.crop_size = (0, 0)
    return config
