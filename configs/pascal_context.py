"""PASCAL Context (Mottaghi et al. 2014): 59 classes on images of VOC 2010, 4,998 of train and 5,105 of val.

The paper of the cell (Chen et al. 2018, arXiv:1809.04184) has no PASCAL Context; nothing is published for this network.
The schedule is that of the first stage on PASCAL VOC (DeepLabv3, arXiv:1706.05587 §4). Not timed here.

The root is VOC2010 with what mmsegmentation's converter (tools/dataset_converters/pascal_context.py) makes of the
annotations: SegmentationClassContext/<id>.png with 0 for the background and 1..59, classes in alphabetical order, and
ImageSets/SegmentationContext/{train,val}.txt. Label files from other places may number the classes otherwise: look at
the contact sheet of the second command. The background is left out; ':background' makes it the first of 60 classes.

  python run.py --config=configs/pascal_context.py --workdir=runs/context --config.dataset.root=/data/VOC2010 \\
    --config.train.init.checkpoint=runs/coco/weights
  python experiments/prepare_data.py --config=configs/pascal_context.py --root=/data/VOC2010
"""

import ml_collections

from configs import common

CLASSES = (
    'aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat, '
    'ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, '
    'horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, '
    'shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, '
    'wood'
)


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'background', 'toy', or 'background,toy'."""
    words = common.words(arg, 'background', 'toy')
    config = common.network_config()
    common.own_data(config.dataset)
    config.dataset.images = 'JPEGImages'
    config.dataset.labels = 'SegmentationClassContext'
    config.dataset.splits.update({split: f'ImageSets/SegmentationContext/{split}.txt' for split in ('train', 'val')})
    config.dataset.classes = ('background',) * ('background' in words) + tuple(CLASSES.split(', '))
    config.dataset.reduce_zero_label = 'background' not in words
    config.dataset.overlap = 'allow'  # the splits are the authors', and scores on them are compared as they are
    config.dataset.published.update({'train': 4_998, 'val': 5_105})
    config.backbone.name = 'xception_71'
    config.evaluate.crop_size = (513, 513)
    config.train.steps = 30_000
    config.train.crop_size = (513, 513)
    config.train.learning_rate = 0.007
    if 'toy' in words:
        common.shrink_network(config)
        config.evaluate.crop_size = (0, 0)
    return config
