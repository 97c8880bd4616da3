"""Whatever network a checkpoint is of: predictions of one's own images, or an evaluation.

Checkpoints that this project writes say which network they are of, and its classes, so no other config is needed. A
field that is given must agree with the checkpoint, except the output stride, which may be another one: atrous rates
follow it, as in the official DeepLab (a network of Chen et al., arXiv:1809.04184, is trained at 16 and tested at 8).

  python run.py --config=configs/from_checkpoint.py --workdir=runs/photos --config.checkpoint=runs/voc/weights \\
    --config.predict.images=photos
  python run.py --config=configs/from_checkpoint.py --workdir=runs/scores --config.checkpoint=runs/voc/weights \\
    --config.journey=evaluate --config.dataset.root=/data/VOCdevkit

Older checkpoints do not say it: for them give the config that they were trained with, and --config.journey=predict.
"""

import ml_collections
from ml_collections import config_dict

from configs import common

LEFT_OPEN: dict[str, dict[str, type]] = {
    'backbone': {'name': str, 'width': float, 'output_stride': int},
    'context': {'name': str, 'filters': int, 'pooling': str, 'dropout_rate': float},
    'decoder': {'output_stride': int},
}
"""What the checkpoint says."""


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The prediction; it takes no argument."""
    common.words(arg)
    config = common.network_config()
    config.journey = 'predict'
    for section, fields in LEFT_OPEN.items():
        config[section] = ml_collections.ConfigDict(
            {field: config_dict.placeholder(kind) for field, kind in fields.items()}
        )
    config.dataset.name = config_dict.placeholder(str)
    config.task = ml_collections.ConfigDict({'name': config_dict.placeholder(str)})
    return config
