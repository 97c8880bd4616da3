"""Whole networks on CamVid, which fits a laptop: 11 classes, 367 and 101 images of 360x480 (docs/data.md).

MobileNet-v2 with the released cell and no decoder, as in Table 1 of the paper (arXiv:1809.04184), which has no CamVid;
nothing is published for it. A short training from ImageNet weights, in which all after the backbone learns 30 times
as fast: 240 steps of batch 8 are 5 epochs, 6 to 10 minutes on 2 CPU cores. What 400 reach: docs/training.md,
"CamVid, end to end".

  python run.py --config=configs/camvid.py --workdir=runs/camvid_dpc_0 --config.dataset.root=/data/camvid \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz

--config.context.name=aspp is the baseline, --config.seed another draw. On a GPU, long enough to converge:
--config.train.steps=10000 --config.train.batch_size=16 --config.train.crop_size="(353, 465)" --config.train.workers=8
--config.train.bn_decay=0.997 --config.train.evaluate_every=1000
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset.name = 'camvid'
    common.camvid_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
    return config
