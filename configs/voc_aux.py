"""Whole networks with decoders of auxiliary cells on PASCAL VOC 2012 (Nekrasov et al., CVPR 2019, arXiv:1810.10804).

MobileNet-v2 with a found decoder of width 64, whose separable operators are repeated twice, at output stride 4 (arch0)
or 8 (arch1, arch2). Auxiliary heads, a cell and a 3x3 convolution at each block, take part in training alone: neither
the evaluation nor an export has them. The paper's val mIoU is about 78, 77 and 77 for arch0, arch1 and arch2, after
training on COCO, the augmented VOC and VOC; these numbers are quoted from memory. Nothing of that is expected from
this config as it stands, which has no COCO.

How the paper trained them is not published. What is taken here: the two rules of the second stage of the release's
search (encoder: SGD, LR 0.001, momentum 0.9; the rest: Adam, LR 0.003; weight decay 1e-5; the gradients of each of the
two clipped at a norm of 3; scales 0.7 to 1.4; the moving average of the weights, decay 0.99, is what counts), and
steps, batch, crops and poly learning rate of configs/pascal_voc.py. Not timed here.

  python run.py --config=configs/voc_aux.py --workdir=runs/voc_arch0 --config.dataset.root=/data/VOCdevkit \\
    --config.train.init.checkpoint=/data/mobilenet_v2.npz
  python run.py --config=configs/voc_aux.py:toy --workdir=runs/voc_arch0_toy   (drawn images; mostly compilation)

--config.context.genotype takes arch1, arch2, a decoder of configs/cells or a file. With
--config.context.auxiliary_weight=0 the heads teach nothing. --config.backbone.name=mobilenet_v2_refinenet gives the
paper's numbers of parameters; there are no ImageNet weights for it here.
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.aux_network_config()
    config.dataset.name = 'pascal_voc'
    config.dataset.duplicate_hard = False  # of training: images of bicycle, chair, table, pottedplant, sofa twice
    config.evaluate.crop_size = (513, 513)
    config.train.split = 'train_aug'
    config.train.steps = 30_000
    config.train.crop_size = (513, 513)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
        config.evaluate.crop_size = (0, 0)
    return config
