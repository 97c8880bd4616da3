"""Search for decoders of auxiliary cells on CamVid with the ImageNet MobileNet-v2: real scenes, on a laptop.

The first stage of the search of Nekrasov et al. (CVPR 2019, arXiv:1810.10804), only smaller: half the width, batch 8
instead of 64, 120 steps, 24 decoders, and a strategy that does something with so few. No class is a background, so all
count in the score. Nothing is published for this space on CamVid.

  python run.py --config=configs/camvid_aux_search.py --workdir=runs/camvid_aux_search \\
    --config.dataset.root=/data/camvid --config.backbone.weights=/data/mobilenet_v2.npz
  python run.py --config=configs/camvid_aux_search.py:toy --workdir=runs/camvid_aux_toy   (drawn images)

On a GPU, nearer to the paper: --config.cell.filters=48 --config.cache.views=10 --config.proxy.batch_size=64
--config.proxy.steps=310 --config.proxy.polyak_every=62 --config.search.num_candidates=1000
--config.search.sampler=controller --config.search.population=1
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The search; `arg` may be 'toy' (a backbone trained for a few steps unless weights are given)."""
    config = common.aux_search_config()
    config.dataset = ml_collections.ConfigDict({'name': 'camvid', 'root': '', 'generated': 0})
    config.backbone.name = 'mobilenet_v2'  # whose ImageNet weights there are; its maps have the same strides
    config.cell.filters = 24
    config.cache.crop_size = (193, 257)
    config.cache.views = 2
    config.proxy.batch_size = 8
    config.proxy.steps = 120
    config.proxy.polyak_every = 24  # five averages, as in the release
    config.search.score = 'geometric_mean'
    config.search.num_candidates = 24
    config.search.sampler = 'evolution'
    config.search.population = 1  # each proposal knows all scores before it
    config.search.sampler_settings.near_best.incumbents = 5
    config.search.sampler_settings.evolution.update({'population': 8, 'sample': 3})  # of 24 candidates
    common.camvid_aux_recipe(config.rerank)
    if common.words(arg, 'toy'):
        common.shrink(config)
        config.dataset.generated = 4
        config.cache.crop_size = (65, 65)
    return config
