"""Cityscapes at the paper's protocol (Chen et al. 2018, arXiv:1809.04184, Tables 1 and 2): 19 classes, 1024x2048.

90K steps of batch 16, crops of 769, LR 0.01, output stride 16, from COCO weights; mIoU on val at a single scale:

    row of Table 1          published   flags
    Xception, DPC           80.85       (none: Xception-71 with the released cell and the decoder)
    Xception, ASPP          80.25       --config.context.name=aspp
    MobileNet-v2, DPC       75.38       --config.backbone.name=mobilenet_v2 --config.decoder.output_stride=0
    MobileNet-v2, ASPP      73.97       the same and --config.context.name=aspp

The paper says "modified Xception" without its depth; the zoo's released DPC is Xception-71 (80.31 on val), and
--config.backbone.name=xception_65 is the other. The paper says over a week on one P100 (§3.2); not timed here.

  python run.py --config=configs/cityscapes.py --workdir=runs/cityscapes --config.dataset.root=/data/cityscapes \\
    --config.train.init.checkpoint=xception_71_2018_05_09.tar.gz

Table 2, the test server (82.7): train with --config.train.split=trainval_coarse, from the weights of the run above and
a lower LR (the paper gives neither its steps nor its LR), then

  python run.py --config=configs/cityscapes.py --workdir=runs/cityscapes_test --config.journey=evaluate \\
    --config.dataset.root=/data/cityscapes --config.checkpoint=runs/cityscapes_coarse/weights \\
    --config.backbone.output_stride=8 --config.evaluate.split=test \\
    --config.evaluate.export=runs/cityscapes_test/labels --config.evaluate.flip=True \\
    --config.evaluate.scales="(0.75, 1.0, 1.25, 1.5, 1.75, 2.0)"
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset.name = 'cityscapes'
    config.backbone.name = 'xception_71'
    config.evaluate.crop_size = (1025, 2049)
    if common.words(arg, 'toy'):
        common.shrink_network(config)
        config.evaluate.crop_size = (0, 0)
    return config
