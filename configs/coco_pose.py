"""Poses on COCO with a decoder of auxiliary cells (Nekrasov et al., CVPR 2019, arXiv:1810.10804, Table 2).

As configs/mpii_pose.py, with 17 joints and the values of Simple Baselines (arXiv:1804.06208) for COCO: crops of
257x193 (256x192 there), zoom 0.3, turns of 40 degrees, 140 epochs of about 150 000 people (164 000 steps of batch 128).
The paper's AP / AR on val2017 with the boxes of Simple Baselines' detector: 0.658 / 0.691 (arch0), 0.659 / 0.694
(arch1), 0.659 / 0.693 (arch2), 0.668 / 0.700 (DeepLab-v3+). Without --config.dataset.detections the annotated boxes are
taken, which gives higher numbers. Not timed here.

  python run.py --config=configs/coco_pose.py --workdir=runs/coco_arch0 --config.dataset.root=/data/coco \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz --config.dataset.detections=/data/people_of_val2017.json
  python run.py --config=configs/coco_pose.py:toy --workdir=runs/coco_toy   (drawn people; mostly compilation)

With `:deeplab` the network is DeepLabv3+ (ASPP and its decoder) in place of auxiliary cells.
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy', 'deeplab' or both."""
    words = common.words(arg, 'toy', 'deeplab')
    config = common.pose_config('deeplab' if 'deeplab' in words else 'aux_cells')
    config.task.zoom, config.task.turn = 0.3, 40.0
    config.dataset.name = 'coco_keypoints'
    config.dataset.detections = ''  # JSON of boxes that a detector found in val; '' takes the annotated ones
    config.train.steps = 164_000
    config.train.crop_size = (257, 193)
    config.evaluate.crop_size = (257, 193)
    config.train.evaluate_every = 10_000
    if 'toy' in words:
        common.shrink_people(config)
    return config
