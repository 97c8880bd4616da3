"""Search for decoders of auxiliary cells on PASCAL VOC 2012 (Nekrasov et al., CVPR 2019, arXiv:1810.10804 §4).

The paper's search, by the values of its release. First stage: 4,000 images of train_aug, one view of each, on
which the encoder runs once; a decoder of width 48 is trained on its maps for 5 epochs of 62 steps of batch 64 (Adam,
LR 0.003, weight decay 1e-5, gradients clipped at 3, the parameters averaged after each epoch), and the controller is
told the geometric mean of three scores without the background. It learns after every single decoder.

What differs from the paper, and why:

* crops are 257 instead of 256 pixels, because maps are aligned at their corners; scales are five values of 0.7 to 1.4
  instead of all between, and small images are padded instead of enlarged;
* the 1,059 images of train_aug that are held out, and the 4,000 that the first stage reads, are drawn by NumPy, so they
  are other ones; held-out images are scored whole. Val takes no part in the search;
* the encoder of the release has been trained for segmentation of VOC, and its file is no longer published. By default
  one is trained here from nothing, which is much worse; ImageNet weights are those of `mobilenet_v2` (below);
* no teacher unless --config.teacher.checkpoint names one, for there are no weights of theirs;
* the second stage (an epoch of 297 steps of encoder and decoder for those that pass the gate) reads crops of the same
  4,000 images, where the paper has all 9,523, and takes its loss at stride 4;
* 2,000 decoders. How many the paper tried in its 8 GPU-days is not known; the release stops at 20,000.

The paper's arch0, arch1 and arch2 are scored beside them. Features and labels take 4 GB. Not timed here.

  python run.py --config=configs/voc_aux_search.py --workdir=runs/voc_aux_search \\
    --config.dataset.root=/data/VOCdevkit --config.backbone.name=mobilenet_v2 \\
    --config.backbone.weights=/data/mobilenet_v2.npz
  python run.py --config=configs/voc_aux_search.py:toy --workdir=runs/voc_aux_toy   (drawn images; mostly compilation)

On several GPUs each worker takes one and all share `--config.search.storage` (docs/search.md).
"""

import ml_collections

from configs import common


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The search; `arg` may be 'toy'."""
    config = common.aux_search_config()
    config.dataset = ml_collections.ConfigDict(
        {'name': 'pascal_voc', 'root': '', 'generated': 0, 'train_list': 'train_aug', 'train_images': 4000}
    )
    config.dataset.held_out = 1059  # a tenth of train_aug
    config.backbone.pretrain.update({'steps': 20_000, 'crop_size': (257, 257)})
    config.proxy.eval_batch_size = 8
    config.tuning.steps = 297
    config.tuning.eval_batch_size = 8
    config.search.pruner = 'running_mean'
    config.search.num_candidates = 2000
    config.search.population = 1  # the controller learns before every proposal
    config.search.sampler = 'controller'
    config.rerank.train.update({'split': 'train_aug', 'steps': 30_000, 'crop_size': (513, 513)})
    config.rerank.evaluate.crop_size = (513, 513)
    if common.words(arg, 'toy'):
        common.shrink(config)
        config.tuning.update({'steps': 0, 'crop_size': (65, 65)})
        config.search.pruner = ''
        config.dataset.update({'generated': 4, 'train_images': 4, 'held_out': 2})
        config.backbone.pretrain.crop_size = (65, 65)
        config.cache.crop_size = (65, 65)
        config.rerank.evaluate.crop_size = (0, 0)
    return config
