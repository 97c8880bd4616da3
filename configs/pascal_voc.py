"""PASCAL VOC 2012 at the paper's protocol (Chen et al. 2018, arXiv:1809.04184, Table 4): 21 classes, crops of 513.

The paper's DPC has 87.9 mIoU on the test server. Two stages (DeepLabv3, arXiv:1706.05587 §4): 30K steps on the 10,582
images of train_aug at output stride 16, LR 0.007, batch norms trained; then 30K on trainval at output stride 8, LR
0.0001 from COCO weights (0.001 without), batch norms frozen, images of the hard classes twice. Not timed here.

  python run.py --config=configs/pascal_voc.py --workdir=runs/voc1 --config.dataset.root=/data/VOCdevkit \\
    --config.train.init.checkpoint=runs/coco/weights
  python run.py --config=configs/pascal_voc.py:stage2 --workdir=runs/voc2 --config.dataset.root=/data/VOCdevkit \\
    --config.train.init.checkpoint=runs/voc1/weights

Then the test set, several scales, labels as the server takes them:

  python run.py --config=configs/pascal_voc.py:stage2 --workdir=runs/voc_test --config.journey=evaluate \\
    --config.dataset.root=/data/VOCdevkit --config.checkpoint=runs/voc2/weights --config.evaluate.split=test \\
    --config.evaluate.export=runs/voc_test/labels --config.evaluate.flip=True \\
    --config.evaluate.scales="(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)"
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'stage2', 'toy', or 'stage2,toy'."""
    words = common.words(arg, 'stage2', 'toy')
    config = common.network_config()
    config.dataset.name = 'pascal_voc'
    config.dataset.duplicate_hard = False  # of training: images of bicycle, chair, table, pottedplant, sofa twice
    config.backbone.name = 'xception_71'
    config.evaluate.crop_size = (513, 513)
    config.train.split = 'train_aug'
    config.train.steps = 30_000
    config.train.crop_size = (513, 513)
    config.train.learning_rate = 0.007
    if 'stage2' in words:
        config.backbone.output_stride = 8
        config.dataset.duplicate_hard = True
        config.train.split = 'trainval'
        config.train.learning_rate = 1e-4
        config.train.batch_norm = 'frozen'
    if 'toy' in words:
        common.shrink_network(config)
        config.evaluate.crop_size = (0, 0)
    return config
