"""The fields of every config with the values of the paper (arXiv:1809.04184); a config changes what differs."""

import ml_collections


def search_config() -> ml_collections.ConfigDict:
    """A search; sizes and rates are (height, width), lists are tuples so that the command line can set them."""
    config = ml_collections.ConfigDict()
    config.journey = 'search'
    config.seed = 0  # of everything drawn: views, order of images, initial noise, proposals

    config.dataset = ml_collections.ConfigDict({'name': ''})

    config.space = ml_collections.ConfigDict({'name': 'dpc', 'num_branches': 5})

    config.cell = ml_collections.ConfigDict()
    config.cell.filters = 256  # of every operator and of the output
    config.cell.pooling = 'sliding'  # as released; 'binned' as in the paper's text
    config.cell.dropout_rate = 0.1

    config.backbone = ml_collections.ConfigDict()
    config.backbone.name = 'mobilenet_v2'
    config.backbone.width = 1.0
    config.backbone.output_stride = 16
    config.backbone.weights = ''  # .npz with official names; '' trains one here
    config.backbone.pretrain = ml_collections.ConfigDict()
    config.backbone.pretrain.steps = 400
    config.backbone.pretrain.batch_size = 16
    config.backbone.pretrain.crop_size = (65, 65)
    config.backbone.pretrain.learning_rate = 0.003
    config.backbone.pretrain.loss_stride = 4

    config.cache = ml_collections.ConfigDict()
    config.cache.directory = ''  # '' is inside the workdir; one folder may serve many searches
    config.cache.crop_size = (769, 769)
    config.cache.views = 4  # augmented views of each train image
    config.cache.scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    config.cache.flip_probability = 0.5
    config.cache.batch_size = 8  # of the backbone's pass

    config.proxy = ml_collections.ConfigDict()
    config.proxy.steps = 30_000
    config.proxy.batch_size = 8
    config.proxy.learning_rate = 0.01
    config.proxy.power = 0.9
    config.proxy.momentum = 0.9
    config.proxy.weight_decay = 4e-5
    config.proxy.bn_decay = 0.9997
    config.proxy.loss_stride = 4  # labels are read at every 4th pixel; 1 is the official full resolution
    config.proxy.evaluations = 1  # scores on val during a run: the points of a curve, where a pruner may stop it
    config.proxy.eval_batch_size = 4
    config.proxy.dtype = 'float32'  # of the cell's computation; parameters are float32
    config.proxy.chunk = 0  # candidates within one vmap; 0 measures up to search.population and takes the fastest
    config.proxy.at_once = 0  # candidates in one call of a program; 0: chunk times devices
    config.proxy.steps_per_call = 20  # how often Ctrl-C is heard

    config.search = ml_collections.ConfigDict()
    config.search.num_candidates = 28_000
    config.search.population = 8  # candidates proposed together, knowing the same scores
    config.search.sampler = 'near_best'  # uniform | near_best | optuna.TPESampler | ...
    config.search.sampler_settings = ml_collections.ConfigDict(  # of each sampler, under its name
        {'near_best': {'exploit': 0.5, 'incumbents': 10, 'neighbourhood': 'adjacent'}}
    )
    config.search.pruner = ''  # optuna.MedianPruner, ...
    config.search.pruner_settings = ml_collections.ConfigDict()
    config.search.references = ('aspp', 'dpc_top1', 'conv1x1')
    config.search.ladder = ()  # further rungs ((steps, how many of the best), ...), each trained anew
    config.search.storage = ''  # any Optuna URL; '' is study.db in the workdir
    config.search.study = 'dpc'
    return config


def network_config() -> ml_collections.ConfigDict:
    """A whole network and what is done with it; sizes and rates are (height, width)."""
    config = ml_collections.ConfigDict()
    config.journey = 'evaluate'
    config.seed = 0
    config.checkpoint = ''  # folder that experiments/import_checkpoint.py wrote

    config.dataset = ml_collections.ConfigDict({'name': ''})

    config.backbone = ml_collections.ConfigDict()
    config.backbone.name = 'mobilenet_v2'  # or xception_41, xception_65, xception_71
    config.backbone.width = 1.0
    config.backbone.output_stride = 16

    config.context = ml_collections.ConfigDict()
    config.context.name = 'dpc'  # dpc | aspp | image_level | none
    config.context.genotype = 'dpc_top1'  # of dpc: a named cell, or a JSON file in the official format
    config.context.filters = 256
    config.context.pooling = 'sliding'  # of dpc: as released; 'binned' as in the paper's text
    config.context.rates = (6, 12, 18)  # of aspp, at output stride 16
    config.context.image_pooling = True  # of aspp
    config.context.separable = True  # of aspp
    config.context.dropout_rate = 0.1

    config.decoder = ml_collections.ConfigDict()
    config.decoder.output_stride = 4  # 0: no decoder
    config.decoder.low_level_filters = 48
    config.decoder.filters = 256

    config.evaluate = ml_collections.ConfigDict()
    config.evaluate.split = 'val'
    config.evaluate.crop_size = (0, 0)  # images are padded to it; (0, 0) fits the largest image of the split
    config.evaluate.image_pooling_crop_size = (0, 0)  # pooling windows are those of this size; (0, 0) follows the crop
    config.evaluate.scales = (1.0,)
    config.evaluate.flip = False
    config.evaluate.batch_size = 1  # images at a time on each device
    config.evaluate.dtype = 'float32'  # of the computation; parameters are float32
    config.evaluate.export = ''  # folder for label images as the Cityscapes server takes them; '' writes none
    config.evaluate.pictures = 4  # image, label and prediction of the first few
    return config


def shrink_network(config: ml_collections.ConfigDict) -> None:
    """Makes any network small enough for seconds, with all its parts."""
    config.backbone.width = 0.1
    config.context.filters = 8
    config.decoder.low_level_filters = 4
    config.decoder.filters = 8


def shrink(config: ml_collections.ConfigDict) -> None:
    """Makes any search a matter of seconds, through the same code: three candidates of two branches, four steps."""
    config.space.num_branches = 2
    config.cell.filters = 4
    config.backbone.width = 0.1
    config.backbone.pretrain.steps = 2
    config.backbone.pretrain.batch_size = 2
    config.cache.views = 1
    config.proxy.steps = 4
    config.proxy.batch_size = 2
    config.proxy.evaluations = 2
    config.proxy.chunk = 1
    config.search.num_candidates = 3
    config.search.population = 2
    config.search.references = ('conv1x1',)


def refuse(arg: str) -> None:
    """For a config argument that means nothing."""
    raise ValueError(f"config argument ':{arg}' is not known; allowed: none, ':toy'")
