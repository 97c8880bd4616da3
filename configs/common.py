"""The fields of every config with the values of the paper (arXiv:1809.04184); a config changes what differs."""

import ml_collections
from ml_collections import config_dict


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
    config.cache.batch_size = 8  # images at a time through the backbone

    config.proxy = proxy_config()

    config.search = ml_collections.ConfigDict()
    config.search.num_candidates = 28_000
    config.search.population = 8  # candidates that are proposed together, from the same scores
    config.search.sampler = 'near_best'  # uniform | near_best | evolution | controller | optuna.TPESampler | ...
    config.search.sampler_settings = ml_collections.ConfigDict(  # of each sampler, under its name
        {
            'near_best': {'exploit': 0.5, 'incumbents': 10, 'neighbourhood': 'adjacent'},
            'evolution': {'population': 100, 'sample': 25},  # as in arXiv:1802.01548, whose searches had 20K cells
            # As released with arXiv:1810.10804; or 'autoregressive', as it is drawn there, and 'reinforce'.
            'controller': {'policy': 'factorised', 'rule': 'ppo', 'learning_rate': 1e-4, 'entropy_weight': 0.0},
        }
    )
    config.search.objectives = ('miou',)  # ('miou', 'macs'): few multiply-adds too, with optuna.NSGAIISampler
    config.search.score = 'miou'  # or geometric_mean, geometric_mean_without_background (dpc_jax/metrics.py)
    config.search.pruner = ''  # optuna.MedianPruner, ...
    config.search.pruner_settings = ml_collections.ConfigDict()
    config.search.references = ('aspp', 'dpc_top1', 'conv1x1')
    # What comes after the first steps (dpc_jax/ladder.py): ('halve', step, share): within the proxy the best share goes
    # on; ('anew', steps, count): the best are trained anew; ('full', count): the best as whole networks, by `rerank`.
    # The paper's: (('full', 50),); successive halving before it: (('halve', 3333, 1/3), ('halve', 10000, 1/3), ...).
    config.search.ladder = ()
    config.search.apart = 1  # in so many choices any two of the best of a later rung differ; more: several families
    config.search.storage = ''  # any Optuna URL; '' is study.db in the workdir
    config.search.study = 'dpc'
    config.rerank = rerank_config()
    return config


def aux_search_config() -> ml_collections.ConfigDict:
    """A search for decoders of auxiliary cells, with the values of arXiv:1810.10804 and its release."""
    config = search_config()
    config.space = ml_collections.ConfigDict({'name': 'aux_cells'})
    config.backbone.name = 'mobilenet_v2_refinenet'
    config.backbone.output_stride = 32
    config.cell = ml_collections.ConfigDict()
    config.cell.filters = 48  # of all maps of the decoder
    config.cell.auxiliary = 'cell'  # what stands at a block in training: cell | conv | none
    config.cell.auxiliary_inner = False  # True: not at the last block
    config.cell.auxiliary_weight = 0.15
    config.cache.crop_size = (257, 257)
    config.cache.scales = (0.7, 0.85, 1.0, 1.2, 1.4)
    config.cache.views = 1
    config.proxy.update({'optimizer': 'adam', 'learning_rate': 0.003, 'power': 0.0, 'clip_norm': 3.0})
    config.proxy.update({'weight_decay': 1e-5, 'bn_decay': 0.9, 'polyak': 0.9, 'loss_stride': 4})
    config.proxy.update({'batch_size': 64, 'steps': 310, 'polyak_every': 62})  # five epochs of 4000 samples
    config.proxy.chunk = 1
    config.proxy.distillation = 0.3
    config.teacher = teacher_config()
    config.tuning = tuning_config()
    config.search.score = 'geometric_mean_without_background'
    config.search.references = ('arch0', 'arch1', 'arch2')
    config.search.study = 'aux'
    aux_recipe(config.rerank)
    # Every context is asked for these; the decoder has neither, and here they do not come from `config.cell`.
    config.rerank.context.update({'pooling': 'sliding', 'dropout_rate': 0.0, 'repeats': 2})
    return config


def proxy_config() -> ml_collections.ConfigDict:
    """How a cell is trained and scored on cached features."""
    config = ml_collections.ConfigDict()
    config.steps = 30_000
    config.batch_size = 8
    config.learning_rate = 0.01
    config.power = 0.9
    config.momentum = 0.9
    config.optimizer = 'sgd'  # or adam
    config.clip_norm = 0.0  # of the whole gradient; 0: it is not clipped
    config.weight_decay = 4e-5
    config.polyak = 0.0  # > 0: every so many steps the parameters become their average of this decay
    config.polyak_every = 1
    config.distillation = 0.0  # weight of the squared difference to the logits of config.teacher
    config.bn_decay = 0.9997
    config.loss_stride = 4  # labels are read at every 4th pixel; 1 is the official full resolution
    config.evaluations = 1  # scores on val during a run: the points of a curve, where a pruner may stop it
    config.stops_at = ()  # further steps after which a score is taken, such as (100, 300, 900)
    config.eval_batch_size = 4
    config.dtype = 'float32'  # of the cell's computation; parameters are float32
    config.precision = 'float32'  # of products on GPU and TPU: as in the cell that is trained; or tensorfloat32
    config.kernels = 'auto'  # 'plain': without the kernels for NVIDIA GPUs, should they fail on one
    config.chunk = 0  # candidates within one vmap; 0 measures up to search.population and takes the fastest
    config.at_once = 0  # candidates in one call of a program; 0: chunk times devices
    config.steps_per_call = 20  # steps between which Ctrl-C can stop, and for which images are streamed at once
    config.stream = 'auto'  # features stay on disk where they do not fit the device; or never | always
    return config


def teacher_config() -> ml_collections.ConfigDict:
    """The network whose logits candidates imitate, as that of a training is described."""
    network, config = network_config(), ml_collections.ConfigDict()
    config.checkpoint = ''  # folder that a training or experiments/import_checkpoint.py wrote; '': no teacher
    config.backbone, config.context, config.decoder = network.backbone, network.context, network.decoder
    return config


def tuning_config() -> ml_collections.ConfigDict:
    """The second stage of a candidate: it is trained on images, with its encoder (release of arXiv:1810.10804).

    What stands between the stages is `search.pruner`: '' promotes all, 'running_mean' is the paper's gate.
    """
    config = ml_collections.ConfigDict()
    config.steps = 0  # 0: there is no second stage; the paper's is one epoch, 297
    config.top = 0  # so many of the candidates that are evaluated together go on, at most; 0: all
    config.batch_size = 32
    config.crop_size = (353, 353)
    config.views = 1
    config.scales = (0.7, 0.85, 1.0, 1.2, 1.4)
    config.learning_rate = 0.003
    config.encoder_learning_rate = 0.001
    config.encoder_momentum = 0.9
    config.weight_decay = 1e-5
    config.clip_norm = 3.0  # of each part
    config.polyak = 0.99  # the parameters become their average at the end
    config.eval_batch_size = 4
    return config


def rerank_config() -> ml_collections.ConfigDict:
    """The recipe of the last rung, `('full', count)`: data and backbone are the search's, the cell is the candidate."""
    network, config = network_config(), ml_collections.ConfigDict()
    config.random = 10  # random cells that take part in the whole search beside the best
    config.seeds = 1  # trainings of each cell, with seeds from the config's on
    config.context, config.decoder, config.train = network.context, network.decoder, network.train
    config.evaluate = network.evaluate
    # The cell is the candidate; what the recipe does not say of it is as in the search (`config.cell`).
    for field in ('name', 'genotype', 'pooling', 'dropout_rate'):
        del config.context[field]
    config.decoder.output_stride = 0  # as the paper's MobileNet-v2
    return config


def depth_task() -> ml_collections.ConfigDict:
    """Distances in metres, by the recipe that is known of the authors' multi-task code (design notes)."""
    config = ml_collections.ConfigDict({'name': 'depth'})
    config.loss = 'berhu'  # or l1 | log_l2, which needs the output exp
    config.output = 'linear'  # the channel is the distance; exp: its natural logarithm
    config.limits = (0.001, 10.0)  # metres: predictions are clipped to them, truth beyond them is not judged
    config.crop = 'none'  # which part of an image is judged: none | eigen (arXiv:1406.2283)
    return config


def pose_task() -> ml_collections.ConfigDict:
    """Joints of one person at a time, by Simple Baselines (arXiv:1804.06208); the values are those for MPII."""
    config = ml_collections.ConfigDict({'name': 'pose'})
    config.stride = 4  # pixels between the cells of a heat map
    config.sigma = 2.0  # cells
    config.zoom = 0.25  # deviation of the random zoom; 0.3 for COCO
    config.turn = 30.0  # degrees, deviation of the random turn; 40 for COCO
    config.turned = 0.6  # probability of a turn
    return config


def pose_config(network: str) -> ml_collections.ConfigDict:
    """A network for poses: 'deeplab', or a decoder of auxiliary cells for any other word."""
    config = deeplab_config() if network == 'deeplab' else aux_network_config()
    config.task = pose_task()
    pose_recipe(config)
    config.evaluate.batch_size = 32
    return config


def pose_recipe(config: ml_collections.ConfigDict) -> None:
    """How networks for poses are trained: Adam, 1e-3, 140 epochs of batch 128 (arXiv:1804.06208); here poly falls."""
    adam = {'optimizer': 'adam', 'learning_rate': 0.001, 'weight_decay': 0.0}
    for part in ('backbone', 'context', 'decoder', 'logits', 'auxiliary'):
        if (part != 'auxiliary' or config.context.name == 'aux_cells') and (
            part != 'decoder' or config.decoder.output_stride
        ):
            config.train.parts[part] = dict(adam)
    config.train.batch_size = 128
    config.train.learning_rate = 0.001  # that of all parts, as the log shows it
    config.train.scales = (1.0,)
    config.train.ema_decay = 0.0
    config.evaluate.flip = True


def nyud_recipe(config: ml_collections.ConfigDict) -> None:
    """Data and training, whether for depth alone or with labels."""
    config.dataset.name = 'nyudv2'
    config.dataset.depth_scale = 5000.0  # of PNG files: the value that stands for a metre
    config.dataset.reduce_zero_label = False  # True where labels are 1..40, and 0 is unknown
    config.train.steps = 20_000
    config.train.crop_size = (449, 449)
    config.train.scales = (0.7, 0.85, 1.0, 1.2, 1.4)
    config.train.evaluate_every = 1_000
    config.train.ema_decay = 0.99
    for part in ('backbone', 'context', 'logits', 'auxiliary'):
        rate = 0.001 if part == 'backbone' else 0.01
        config.train.parts[part] = {
            **{'optimizer': 'sgd', 'learning_rate': rate, 'momentum': 0.9, 'weight_decay': 1e-5},
        }


def deeplab_config() -> ml_collections.ConfigDict:
    """DeepLabv3+: ASPP and its decoder."""
    config = network_config()
    config.context.name = 'aspp'
    return config


def own_data(config: ml_collections.ConfigDict) -> None:
    """Makes `config` that of a folder of images and labels (dpc_jax/datasets/folders); nothing is set but its name.

    What is not set is taken from `dataset.json` in the root.
    """
    config.name = 'folders'
    config.root = ''
    config.generated = 0
    config.update(dict.fromkeys(('images', 'labels', 'image_suffix', 'label_suffix', 'label_kind', 'overlap'), ''))
    config.update(dict.fromkeys(('classes', 'colours', 'ids', 'unknown'), ()))
    config.update({'splits': {}, 'published': {}})
    config.split_seed = config_dict.placeholder(int)
    config.reduce_zero_label = config_dict.placeholder(bool)


def scenes() -> ml_collections.ConfigDict:
    """The procedural street scenes that search and networks share."""
    return ml_collections.ConfigDict(
        {'name': 'scenes', 'size': (257, 385), 'num_train': 320, 'num_val': 48, 'seed': 0, 'noise': 6.0}
    )


def scenes_recipe(config: ml_collections.ConfigDict) -> None:
    """How networks on the scenes are trained, whether one alone or in the last rung of a search."""
    config.context.filters = 32
    config.decoder.output_stride = 0
    config.train.steps = 240
    config.train.batch_size = 8
    config.train.crop_size = (257, 385)
    config.train.scales = (1.0,)  # larger ones would crop the cues away
    config.train.learning_rate = 0.02
    config.train.last_layer_gradient_multiplier = 5.0
    config.train.bn_decay = 0.95
    config.train.workers = 1
    config.train.log_every = 10
    config.train.evaluate_every = 120
    config.train.checkpoint_every = 60


def camvid_recipe(config: ml_collections.ConfigDict) -> None:
    """How networks on CamVid are trained from ImageNet weights: 5 epochs in 6 to 10 minutes on 2 CPU cores."""
    config.decoder.output_stride = 0
    config.evaluate.crop_size = (0, 0)
    config.train.steps = 240
    config.train.batch_size = 8
    config.train.crop_size = (225, 289)
    config.train.learning_rate = 0.003
    config.train.last_layer_gradient_multiplier = 30.0
    config.train.bn_decay = 0.95
    config.train.workers = 1
    config.train.log_every = 10
    config.train.evaluate_every = 80
    config.train.checkpoint_every = 40


def camvid_aux_recipe(config: ml_collections.ConfigDict) -> None:
    """How networks with auxiliary cells are trained there, whether one alone or in the last rung of a search.

    The parts have learning rates of their own. Nothing is clipped: the first of these few steps would be shorter.
    """
    camvid_recipe(config)
    config.train.last_layer_gradient_multiplier = 1.0
    for part in config.train.parts.values():
        part.clip_norm = 0.0


def camvid_search_recipe(config: ml_collections.ConfigDict) -> None:
    """How cells are searched on a few hundred images with ImageNet features: 40 minutes on two cores for CamVid."""
    config.cell.filters = 64
    config.cache.crop_size = (321, 321)
    config.proxy.steps = 500
    config.proxy.learning_rate = 0.4
    config.proxy.bn_decay = 0.97
    config.proxy.loss_stride = 8
    config.search.num_candidates = 48
    config.search.sampler_settings.evolution.update({'population': 16, 'sample': 5})  # of 48 candidates
    camvid_recipe(config.rerank)


def network_config() -> ml_collections.ConfigDict:
    """A whole network, how it is trained and how it is evaluated; sizes and rates are (height, width)."""
    config = ml_collections.ConfigDict()
    config.journey = 'train'  # or evaluate or predict, which read config.checkpoint
    config.seed = 0  # of everything drawn: weights, order of images, their crops, dropout
    config.checkpoint = ''  # of these two: folder that a training or experiments/import_checkpoint.py wrote

    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = ''
    config.dataset.root = ''  # as downloaded, or as packed by experiments/pack_data.py
    config.dataset.generated = 0  # > 0, and no root: so many drawn images per split, in the workdir, in the real layout

    config.task = ml_collections.ConfigDict({'name': 'segmentation'})  # or depth | depth_segmentation | pose

    config.backbone = ml_collections.ConfigDict()
    config.backbone.name = 'mobilenet_v2'  # or xception_41, xception_65, xception_71
    config.backbone.width = 1.0
    config.backbone.output_stride = 16

    config.context = ml_collections.ConfigDict()
    config.context.name = 'dpc'  # a file of dpc_jax/contexts: dpc | aspp | image_level | none
    config.context.genotype = 'dpc_top1'  # of dpc: a named cell, a JSON file in the official format, or its text
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

    config.train = train_config()

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

    config.predict = predict_config()
    return config


def predict_config() -> ml_collections.ConfigDict:
    """Predictions of images of one's own; passes and batches are those of `config.evaluate`."""
    config = ml_collections.ConfigDict()
    config.images = ''  # a folder, an image, a pattern such as photos/*.jpg, or a text file with a path on each line
    config.boxes = ''  # of people, for the task pose: a JSON list as of COCO's results; '' takes whole images for one
    config.labels = 'index'  # what label images hold: indices with a palette, or 'export': the data set's own ids
    config.probabilities = 0  # so many of the most probable classes of each pixel are written, too
    config.whole = (2049, 2049)  # images with more pixels than one of this size go in tiles
    config.tile = (1025, 1025)
    config.overlap = 128  # pixels that tiles share at least
    config.faulty_images = 'skip'  # named and passed over, or 'stop'
    return config


def train_config() -> ml_collections.ConfigDict:
    """How a network is trained: the official values for Cityscapes (train_utils.py, train.py; paper §4)."""
    config = ml_collections.ConfigDict()
    config.split = 'train'
    config.steps = 90_000
    config.batch_size = 16  # images of a step, on all devices of all hosts together
    config.accumulate = 1  # parts in which the batch goes through, gradients added up: for small memories
    config.dtype = 'float32'  # of the computation, or bfloat16; parameters are float32

    config.crop_size = (769, 769)
    config.scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    config.flip_probability = 0.5
    config.workers = 4  # processes that decode and augment; 0: in this one
    config.threads = 4  # in each of them
    config.faulty_images = 'stop'  # or 'skip': another image takes its place; counted and named

    config.learning_rate = 0.01
    config.power = 0.9  # poly: learning_rate * (1 - step / steps) ** power
    config.slow_start_steps = 0
    config.slow_start_learning_rate = 1e-4
    config.momentum = 0.9
    config.weight_decay = 4e-5  # of full and pointwise kernels, no others
    config.last_layer_gradient_multiplier = 1.0  # of all after the backbone
    # Rules of parts (backbone, context, decoder, logits) in place of the above, by name: {'backbone': {'optimizer':
    # 'sgd', 'learning_rate': 0.001}}; optimizer: sgd, adam or adamw; momentum, weight_decay.
    config.parts = ml_collections.ConfigDict()
    config.ema_decay = 0.0  # > 0: what is evaluated and exported is the moving average of the weights

    config.batch_norm = 'synced'  # statistics over the whole batch; 'per_device', as released; or 'frozen'
    config.bn_decay = 0.0  # of the moving averages; 0 keeps the official 0.9997 (MobileNet-v2: 0.997)

    config.class_weights = ()  # one for each class; () weighs all alike
    config.hard_pixels = 1.0  # share of the pixels, the hardest, whose loss counts (top_k_percent_pixels)
    config.hard_pixels_step = 0  # step until which the share shrinks from 1

    config.init = ml_collections.ConfigDict()
    config.init.checkpoint = (
        ''  # what to start from: official weights, or a folder that a training wrote; '' draws them
    )
    config.init.parts = 'all'  # or 'backbone'; logits of another number of classes are drawn anew

    config.log_every = 100  # steps, as below
    config.evaluate_every = 5_000  # on evaluate.split; 0 only at the end
    config.checkpoint_every = 1_000
    config.keep = 3  # checkpoints to go on from; the best weights are kept beside them
    return config


def aux_network_config() -> ml_collections.ConfigDict:
    """A whole network with a decoder of auxiliary cells, of the size of the final ones of arXiv:1810.10804."""
    config = network_config()
    config.backbone.output_stride = 32
    config.context.name = 'aux_cells'
    config.context.genotype = 'arch0'  # arch0 | arch1 | arch2, a found decoder, a file, or the text of one
    config.context.repeats = 2  # of the unit within separable operators; 1 in the search
    config.context.auxiliary = 'cell'  # what stands at a block in training alone: cell | conv | none
    config.context.auxiliary_inner = False  # True: not at the last block
    config.context.auxiliary_weight = 0.15
    aux_recipe(config)
    return config


def aux_recipe(config: ml_collections.ConfigDict) -> None:
    """How whole networks with auxiliary cells are trained: by the rules of the second stage of the release's search.

    That stage has no schedule; here the learning rates are poly. Encoder and decoder are clipped, each by its norm.
    """
    decoder = {'optimizer': 'adam', 'learning_rate': 0.003, 'weight_decay': 1e-5, 'clip_norm': 3.0}
    config.context.filters = 64
    config.decoder.output_stride = 0
    config.train.parts.backbone = {
        **{'optimizer': 'sgd', 'learning_rate': 0.001, 'momentum': 0.9, 'weight_decay': 1e-5, 'clip_norm': 3.0},
    }
    for part in ('context', 'logits', 'auxiliary'):
        config.train.parts[part] = dict(decoder)
    config.train.learning_rate = 0.003  # that of the decoder, as the log shows it
    config.train.ema_decay = 0.99
    config.train.scales = (0.7, 0.85, 1.0, 1.2, 1.4)  # drawn from the whole of 0.7 to 1.4 in the release


def shrink_network(config: ml_collections.ConfigDict) -> None:
    """Makes any network small enough to run in seconds, with all its parts."""
    shrink_backbone(config)
    config.dataset.generated = 6
    shrink_recipe(config)


def shrink_backbone(config: ml_collections.ConfigDict) -> None:
    """Takes a backbone that compiles in seconds, of the same strides; --config.backbone.name is another."""
    config.backbone.name = 'mobilenet_v2_shallow'
    config.backbone.width = 0.1


def shrink_people(config: ml_collections.ConfigDict) -> None:
    """Makes a network for poses small enough to run in seconds on drawn people."""
    shrink_network(config)
    if config.context.name == 'aux_cells':
        config.context.auxiliary = 'conv'  # half of the compilation is that of auxiliary cells
    config.evaluate.crop_size = (65, 65)
    config.evaluate.batch_size = 4


def shrink_recipe(config: ml_collections.ConfigDict) -> None:
    """Makes what stands around a cell small and its training short; a search has it under `rerank`."""
    config.context.filters = 8
    config.decoder.low_level_filters = 4
    config.decoder.filters = 8
    config.train.steps = 4
    config.train.batch_size = 4
    config.train.crop_size = (65, 65)
    config.train.workers = 0
    config.train.log_every = 1
    config.train.evaluate_every = 2
    config.train.checkpoint_every = 2


def shrink(config: ml_collections.ConfigDict) -> None:
    """Makes any search run in seconds, through the same code: three candidates of two branches, four steps."""
    config.rerank.random = 1
    shrink_recipe(config.rerank)
    if 'num_branches' in config.space:
        config.space.num_branches = 2
    config.cell.filters = 4
    shrink_backbone(config)
    config.backbone.pretrain.steps = 2
    config.backbone.pretrain.batch_size = 2
    config.cache.views = 1
    config.proxy.steps = 4
    config.proxy.batch_size = 2
    config.proxy.evaluations = 2
    config.proxy.chunk = 1
    config.search.num_candidates = 3
    config.search.population = 2
    config.search.references = config.search.references[-1:]
    config.search.sampler_settings.evolution.update({'population': 2, 'sample': 1})


def words(arg: str, *known: str) -> set[str]:
    """The words of a config argument such as 'stage2,toy'; ValueError unless all of them are `known`."""
    given = [word for word in arg.split(',') if word]
    if not set(given) <= set(known):
        allowed = ', '.join(f"':{word}'" for word in known)
        raise ValueError(f"config argument ':{arg}' is not known; allowed: none, {allowed}")
    return set(given)
