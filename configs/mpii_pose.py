"""Poses on MPII with a decoder of auxiliary cells (Nekrasov et al., CVPR 2019, arXiv:1810.10804, Table 2).

MobileNet-v2 and arch0 with a heat map for each of 16 joints, trained top down by the recipe of Simple Baselines
(arXiv:1804.06208): Adam, learning rate 1e-3, batch 128, 140 epochs of 22 246 people (24 300 steps), zoom 0.25, turns of
30 degrees, flip test. The paper's PCKh@0.5 / @0.1: 86.5 / 31.4 (arch0), 87.0 / 32.0 (arch1), 87.1 / 31.8 (arch2). The
recipe drops the learning rate twice by ten; here it falls as a poly. Crops are 257x257 in place of 256x256
(docs/tasks.md). Not timed here.

  python run.py --config=configs/mpii_pose.py --workdir=runs/mpii_arch0 --config.dataset.root=/data/mpii \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz
  python run.py --config=configs/mpii_pose.py:toy --workdir=runs/mpii_toy   (drawn people; mostly compilation)

--config.context.genotype takes arch1, arch2, a decoder of configs/cells or a file. With `:deeplab` the network is
DeepLabv3+ (ASPP and its decoder): 86.6 / 31.7 in the paper's own implementation.
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy', 'deeplab' or both."""
    words = common.words(arg, 'toy', 'deeplab')
    config = common.pose_config('deeplab' if 'deeplab' in words else 'aux_cells')
    config.dataset.name = 'mpii'
    config.dataset.train_annotations = ''  # '' finds annot/train.json, annotations/mpii_train.json or the official file
    config.dataset.val_annotations = ''
    config.dataset.heads = 'boxes'  # what the size of a head is measured by; joints: where there are no boxes
    config.dataset.val_share = 0.1  # of the images of the official file that are val, if it has no val_images.txt
    config.train.steps = 24_300
    config.train.crop_size = (257, 257)
    config.evaluate.crop_size = (257, 257)
    config.train.evaluate_every = 2_000
    if 'toy' in words:
        common.shrink_people(config)
    return config
