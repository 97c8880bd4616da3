"""A starting point for a search on your own images: classes and files as your folder's `dataset.json` says.

The proxy of configs/camvid_search.py: the paper's (Chen et al. 2018, arXiv:1809.04184, §3.2) with 64 filters and 500
steps, on features of an ImageNet MobileNet-v2. docs/own_data.md says how to come here.

  python experiments/propose_dataset.py --root=/data/mine --write
  python run.py --config=configs/own_data_search.py --workdir=runs/mine_search --config.dataset.root=/data/mine \\
    --config.backbone.weights=/data/mobilenet_v2_imagenet.npz

Set --config.cache.crop_size to about the size of your images (output stride * k + 1). On a GPU, nearer to the paper:
--config.cell.filters=256 --config.proxy.steps=3000 --config.proxy.bn_decay=0.997 --config.proxy.dtype=bfloat16
--config.search.num_candidates=400 --config.search.population=32
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The search; `arg` may be 'toy', which draws a folder unless `dataset.root` is given."""
    config = common.search_config()
    common.own_data(config.dataset)
    common.camvid_search_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink(config)
        config.dataset.generated = 8
        config.cache.crop_size = (65, 65)
    return config
