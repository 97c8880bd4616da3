"""A starting point for a network on your own images: classes and files as your folder's `dataset.json` says.

MobileNet-v2 with the released cell (Chen et al. 2018, arXiv:1809.04184) and the short training of configs/camvid.py,
from ImageNet weights; nothing is published for data that nobody else has. docs/own_data.md says how to come here.

  python experiments/propose_dataset.py --root=/data/mine --write
  python run.py --config=configs/own_data.py --workdir=runs/mine --config.dataset.root=/data/mine \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz

Set --config.train.crop_size to about the size of your images (output stride * k + 1), --config.train.steps to 5 to 50
times the images of train / batch size. On a GPU, long enough to converge: --config.train.steps=10000
--config.train.batch_size=16 --config.train.workers=8 --config.train.bn_decay=0.997
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network; `arg` may be 'toy', which draws a folder unless `dataset.root` is given."""
    config = common.network_config()
    common.own_data(config.dataset)
    common.camvid_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
    return config
