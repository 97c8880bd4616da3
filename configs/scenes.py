"""Whole networks on the procedural street scenes: no download, no GPU, minutes on two cores (no paper has them).

A narrow MobileNet-v2 with the released cell (Chen et al. 2018, arXiv:1809.04184), or with a cell that
`configs/scenes_search.py` found. It shows the training of a network and its predictions without any data. The
backbone that a search has trained is a good start:

  python run.py --config=configs/scenes.py --workdir=runs/scenes_net
  python run.py --config=configs/scenes.py --workdir=runs/scenes_net2 --config.train.init.parts=backbone \\
    --config.train.init.checkpoint=runs/scenes/backbone-HASH.npz
  python run.py --config=configs/scenes.py:toy --workdir=runs/toy_net   (seconds; its scores mean nothing)
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset = common.scenes()
    config.backbone.width = 0.35
    common.scenes_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
        config.dataset.update({'size': (65, 97), 'num_train': 6, 'num_val': 3})
    return config
