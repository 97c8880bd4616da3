"""Search on procedural street scenes: no download, no GPU, minutes on two cores.

The whole search of the paper (Chen et al. 2018, arXiv:1809.04184, §3.2), only smaller: a narrow MobileNet-v2 is trained
for a minute to see what can be seen locally, its features of 257x385 scenes are cached at output stride 16, and cells
are trained on them and ranked. Four pairs of classes in the scenes can be told apart only by a cue far away, each in
another direction, so what a cell reaches decides its score.

  python run.py --config=configs/scenes_search.py --workdir=runs/scenes
  python run.py --config=configs/scenes_search.py:toy --workdir=runs/toy   (seconds; its scores mean nothing)

With `:ladder` the best eight are trained anew for 1,200 steps, and the best four of these as whole networks, beside
four random cells. No two of the best are alike in all but two choices. Nothing is halved: on these scenes the score
after a third of the steps says next to nothing of the score at the end (experiments/results/scenes_fidelity).

  python run.py --config=configs/scenes_search.py:ladder --workdir=runs/scenes_ladder   (an hour or so, estimated)
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The search; `arg` may be 'toy', 'ladder' or both."""
    words = common.words(arg, 'toy', 'ladder')
    config = common.search_config()
    config.dataset = common.scenes()
    config.backbone.width = 0.35
    config.cell.filters = 32
    config.cache.crop_size = (257, 385)
    config.cache.views = 2
    config.cache.scales = (1.0,)  # larger ones would crop the cues away
    config.proxy.steps = 240
    config.proxy.learning_rate = 0.3
    config.proxy.bn_decay = 0.97
    config.proxy.loss_stride = 8
    config.search.num_candidates = 24
    config.search.sampler_settings.near_best.incumbents = 5
    config.search.sampler_settings.evolution.update({'population': 8, 'sample': 3})  # of 24 candidates
    common.scenes_recipe(config.rerank)
    config.rerank.random = 4
    if 'ladder' in words:
        config.search.ladder = (('anew', 1200, 8), ('full', 4))
        config.search.apart = 3
    if 'toy' in words:
        common.shrink(config)
        config.dataset.update({'size': (65, 97), 'num_train': 6, 'num_val': 3})
        config.cache.crop_size = (65, 97)
        if 'ladder' in words:
            config.search.ladder = (('halve', 1, 0.5), ('full', 1))
    return config
