"""Search on CamVid with the ImageNet MobileNet-v2: real street scenes, 367 train and 101 val images of 360x480.

The paper's proxy (Chen et al. 2018, arXiv:1809.04184, §3.2) on a data set that fits a laptop: 64 filters and 500 steps
instead of 256 and 30 000; 40 minutes of evaluation on two cores. Data, weights and results are in
docs/search.md, "CamVid".

  python run.py --config=configs/camvid_search.py --workdir=runs/camvid \\
    --config.dataset.root=/data/camvid --config.backbone.weights=/data/mobilenet_v2_imagenet.npz

On a GPU, nearer to the paper: --config.cell.filters=256 --config.proxy.steps=3000 --config.proxy.bn_decay=0.997
--config.proxy.dtype=bfloat16 --config.search.num_candidates=400 --config.search.population=32
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The search; `arg` may be 'toy' (a backbone trained for a few steps unless weights are given)."""
    config = common.search_config()
    config.dataset = ml_collections.ConfigDict({'name': 'camvid', 'root': ''})
    common.camvid_search_recipe(config)
    if common.words(arg, 'toy'):
        common.shrink(config)
        config.cache.crop_size = (65, 65)
    return config
