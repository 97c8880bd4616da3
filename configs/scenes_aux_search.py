"""Search for decoders of auxiliary cells on procedural street scenes: no download, no GPU, minutes on two cores.

The search of Nekrasov et al. (CVPR 2019, arXiv:1810.10804), only smaller: a narrow MobileNet-v2 is trained for a minute
to see what can be seen locally, its maps of 129x193 scenes at strides 4, 8, 16 and 32 are cached, and whole decoders
are trained on them, all by one compiled program, and ranked by the paper's reward.

  make search CONFIG=configs/scenes_aux_search.py WORKDIR=runs/scenes_aux
  python run.py --config=configs/scenes_aux_search.py --workdir=runs/scenes_aux
  python run.py --config=configs/scenes_aux_search.py:toy --workdir=runs/aux_toy   (2 minutes of compilation)

With `:tuned` the promising decoders are then trained together with their encoder, as in the paper's second stage:

  python run.py --config=configs/scenes_aux_search.py:tuned --workdir=runs/scenes_aux_tuned

The paper's strategy, which takes more decoders than these to learn anything: --config.search.sampler=controller
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The search; `arg` may be 'toy', 'tuned' or both."""
    words = common.words(arg, 'toy', 'tuned')
    config = common.aux_search_config()
    config.dataset = common.scenes()
    config.dataset.size = (129, 193)
    config.backbone.width = 0.35
    config.cell.filters = 24
    config.cache.crop_size = (129, 193)
    config.cache.views = 2
    config.cache.scales = (1.0,)  # larger ones would crop the cues away
    config.proxy.batch_size = 8
    config.proxy.steps = 240
    config.proxy.polyak_every = 80  # an epoch
    config.search.score = 'geometric_mean'  # class 0 is no background
    config.search.num_candidates = 24
    config.search.sampler_settings.near_best.incumbents = 5
    config.search.sampler_settings.evolution.update({'population': 8, 'sample': 3})  # of 24 candidates
    config.tuning.batch_size = 8
    config.tuning.crop_size = (129, 193)
    config.tuning.scales = (1.0,)
    common.scenes_recipe(config.rerank)
    config.rerank.context.filters = 24
    config.rerank.train.crop_size = (129, 193)
    config.rerank.train.update({'learning_rate': 0.003, 'last_layer_gradient_multiplier': 1.0})  # as aux_recipe has it
    if 'tuned' in words:
        config.tuning.steps = 40  # an epoch
        config.search.pruner = 'running_mean'
    if 'toy' in words:
        common.shrink(config)
        config.tuning.update({'batch_size': 2, 'crop_size': (65, 97), 'steps': 2 * ('tuned' in words)})
        config.dataset.update({'size': (65, 97), 'num_train': 6, 'num_val': 3})
        config.cache.crop_size = (65, 97)
    return config
