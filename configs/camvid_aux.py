"""Whole networks with decoders of auxiliary cells on CamVid, which fits a laptop (Nekrasov et al., arXiv:1810.10804).

MobileNet-v2 from ImageNet weights with a found decoder of width 64, as configs/voc_aux.py has it, by the short training
of configs/camvid.py: 240 steps of batch 8. The auxiliary heads take part in training alone. Nothing is published for
CamVid; the rules of encoder and decoder are those of the second stage of the release's search, without its clipping of
gradients, which would make the first of these few steps shorter. Not timed here.

  python run.py --config=configs/camvid_aux.py --workdir=runs/camvid_arch0 --config.dataset.root=/data/camvid \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz
  python run.py --config=configs/camvid_aux.py:toy --workdir=runs/camvid_arch0_toy   (drawn images; mostly compilation)

--config.context.genotype takes arch1, arch2, a decoder of configs/cells or a file; --config.seed is another draw. The
flags of a long run are those of configs/camvid.py. With ':aspp' or ':dpc' (':dpc,toy') it is a network of the first
system, by the same recipe: output stride 16, 256 filters, no auxiliary heads.
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network; `arg` may be 'toy', 'aspp', 'dpc'."""
    words = common.words(arg, 'toy', 'aspp', 'dpc')
    first_system = sorted(words - {'toy'})
    if len(first_system) > 1:
        raise ValueError(f"config argument ':{arg}' names two networks; allowed: ':aspp' or ':dpc'")
    config = common.network_config() if first_system else common.aux_network_config()
    if first_system:
        common.aux_recipe(config)
        config.context.update({'name': first_system[0], 'filters': 256})
        del config.train.parts.auxiliary
    config.dataset.name = 'camvid'
    common.camvid_aux_recipe(config)
    if 'toy' in words:
        common.shrink_network(config)
    return config
