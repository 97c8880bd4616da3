"""Cityscapes at the paper's protocol (Chen et al. 2018, arXiv:1809.04184, Tables 1 and 2): 19 classes, 1024x2048.

Xception-71 with the released cell and the decoder. The released checkpoint (xception71_dpc_cityscapes_trainfine of
the official model zoo) scores 80.31 % mIoU on val by its authors, at output stride 16 and a single scale.

  python experiments/import_checkpoint.py --config=configs/cityscapes.py --out=runs/imported \\
    --checkpoint=deeplab_cityscapes_xception71_trainfine_2018_09_08.tar.gz
  python run.py --config=configs/cityscapes.py --workdir=runs/cityscapes \\
    --config.dataset.root=/data/cityscapes --config.checkpoint=runs/imported

The test submission (82.66): --config.backbone.output_stride=8 --config.evaluate.flip=True
--config.evaluate.scales="(0.75, 1.0, 1.25, 1.5, 1.75, 2.0)" --config.evaluate.split=test --config.evaluate.export=...

Other rows: --config.backbone.name=xception_65 or mobilenet_v2, --config.context.name=aspp.
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network; `arg` may be 'toy'."""
    config = common.network_config()
    config.dataset.name = 'cityscapes'
    config.backbone.name = 'xception_71'
    config.evaluate.crop_size = (1025, 2049)
    if arg == 'toy':
        common.shrink_network(config)
        config.evaluate.crop_size = (0, 0)
    elif arg:
        common.refuse(arg)
    return config
