"""ADE20K, SceneParsing (Zhou et al. 2017): 150 classes, 20,210 images of train and 2,000 of val, crops of 513.

The paper of the cell (Chen et al. 2018, arXiv:1809.04184) has no ADE20K; nothing is published for this network. Crop,
rates and 150K steps are those of the official DeepLab for ADE20K (deeplab/g3doc/ade20k.md), whose batch of 4 is a
demonstration by its own words; here it is 16, LR 0.007 as on PASCAL VOC. Not timed here.

The root is ADEChallengeData2016 as unpacked: images/{training,validation}/*.jpg, annotations/.../*.png with 0 where
nothing is labelled and 1..150, of which 1 is the first class below. Exported labels have 1..150, too.

  python run.py --config=configs/ade20k.py --workdir=runs/ade20k --config.dataset.root=/data/ADEChallengeData2016 \\
    --config.train.init.checkpoint=xception_65_2018_05_04.tar.gz --config.train.init.parts=backbone
  python experiments/prepare_data.py --config=configs/ade20k.py --root=/data/ADEChallengeData2016
"""

import ml_collections

from configs import common

# The first of the synonyms in objectInfo150.txt, which comes with the data, in its order.
CLASSES = (
    'wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, '
    'door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, '
    'field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, '
    'signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, '
    'stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee '
    'table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, '
    'boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, '
    'television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, '
    'buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, '
    'barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, '
    'pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, '
    'ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag'
)


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The network and its training; `arg` may be 'toy'."""
    config = common.network_config()
    common.own_data(config.dataset)
    config.dataset.images = 'images/{split}'
    config.dataset.labels = 'annotations/{split}'
    config.dataset.splits.update({'train': 'training', 'val': 'validation'})
    config.dataset.classes = tuple(CLASSES.split(', '))
    config.dataset.reduce_zero_label = True
    config.dataset.overlap = 'allow'  # the splits are the authors', and scores on them are compared as they are
    config.dataset.published.update({'train': 20_210, 'val': 2_000})
    config.backbone.name = 'xception_65'
    config.train.steps = 150_000
    config.train.crop_size = (513, 513)
    config.train.learning_rate = 0.007
    if common.words(arg, 'toy'):
        common.shrink_network(config)
    return config
