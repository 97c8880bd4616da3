"""How fast is the engine of auxiliary-cell decoders? `bench_population.py --space=aux_cells` runs this.

Compared on the same random decoders and the same work, a whole training step on a minibatch (maps of four strides,
loss at stride 4 with the auxiliary heads, Adam):

  engine  the programs of the search: one program for every decoder, a candidate on each device
  torch   the same decoder in eager PyTorch on all cores (experiments/torch_aux_decoder.py), in the better of its two
          memory layouts, where it is installed (--torch)

Genotype by genotype, in turn, so that whatever else the machine does falls on both. All steps of the engine are one
call of its program, as in a search (`proxy.steps_per_call`, 20): each call begins by making the memory of maps, which
took 0.6 s at these sizes. On a CPU XLA_FLAGS=--xla_force_host_platform_device_count=2 makes two devices of two
cores.
"""

import dataclasses
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpc_jax import population, proxy
from dpc_jax.base import Genotype, InputError, Size, stack, unstack
from dpc_jax.heads import aux_cells as aux_head
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import STRIDES, Space

CHANNELS = (24, 32, 96, 320)  # of MobileNet-v2
LEARNING_RATE, DECAY = 3e-3, 1e-5
ROUNDS = 1


@dataclasses.dataclass(frozen=True)
class Work:
    """What is timed."""

    images: int  # N
    size: Size  # of the maps of stride 4
    filters: int
    classes: int
    steps: int  # of a round, in one call


def run(work: Work, decoders: int, *, torch: bool) -> str:
    """Times random decoders and gives the table."""
    if torch and not importlib.util.find_spec('torch'):
        raise InputError('--torch needs PyTorch, which is not installed')
    genotypes = unstack(Space().sample(jax.random.key(0), decoders))
    data = _data(work)
    engine = _Engine(work, data)
    started = time.perf_counter()
    engine(genotypes[0], steps=1)
    compiled = time.perf_counter() - started
    lines = [
        f'{jax.devices()[0].device_kind}, {jax.device_count()} devices; N = {work.images}, maps of stride 4'
        f' {work.size[0]}x{work.size[1]}, {work.filters} filters, {work.classes} classes',
        f'engine: {compiled:.0f} s until its first step is done (one program for every decoder)',
        'decoder                                      engine ms   torch ms   torch / engine',
    ]
    ratios, ours, theirs = [], 0.0, 0.0
    for genotype in genotypes:
        name = ' '.join(map(str, aux_cells.flat(genotype)))
        if not torch:
            lines.append(f'{name:44}{1000 * engine(genotype):10.0f}')
            continue
        rivals = [_torch_step(genotype, work, data, channels_last=last) for last in (True, False)]
        seconds = [math.inf] * 3
        for _ in range(ROUNDS):
            for place, run_once in enumerate((lambda: engine(genotype), *rivals)):  # noqa: B023
                seconds[place] = min(seconds[place], run_once())
        rival = min(seconds[1:])
        ratios.append(rival / seconds[0])
        ours, theirs = ours + seconds[0], theirs + rival
        lines.append(f'{name:44}{1000 * seconds[0]:10.0f}{1000 * rival:11.0f}{ratios[-1]:12.2f}')
        print(lines[-1], flush=True)
    if ratios:
        lines.append(
            f'torch / engine: geometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f},'
            f' of the sums {theirs / ours:.2f}'
        )
    lines.append(f'compilations of the training program: {engine.compilations()}')
    return '\n'.join(lines)


def _data(work: Work) -> proxy.ProxyData:
    """Noise in the shape of a cache of one minibatch."""
    random, (height, width) = np.random.default_rng(0), work.size
    maps = {}
    for stride, channels in zip(STRIDES, CHANNELS, strict=True):
        side = (-(-4 * height // stride), -(-4 * width // stride))
        noise = np.abs(random.standard_normal((work.images, *side, channels), np.float32))
        maps[stride] = jnp.asarray(noise, jnp.bfloat16)
    labels = jnp.asarray(random.integers(0, work.classes, (work.images, height, width)).astype(np.uint8))
    return proxy.ProxyData(maps, labels, maps, labels)


class _Engine:
    """Seconds of a candidate-step of a decoder: one on each device."""

    def __init__(self, work: Work, data: proxy.ProxyData) -> None:
        head = aux_head.Head(work.classes, work.filters)
        settings = proxy.ProxySettings(
            head,
            steps=work.steps,
            batch_size=work.images,
            learning_rate=LEARNING_RATE,
            power=0.0,
            optimizer='adam',
            weight_decay=DECAY,
        )
        self._steps = work.steps
        self._evaluator = population.PopulationEvaluator(settings, data, seed=0, steps_per_call=work.steps)

    def __call__(self, genotype: Genotype, steps: int = 0) -> float:
        evaluator, steps = self._evaluator, steps or self._steps
        everyone, alive = stack([genotype] * evaluator.population), np.ones(evaluator.population, bool)
        candidates = evaluator.programs.init(alive, everyone, evaluator.plan.key_init)
        jax.block_until_ready(candidates)
        started = time.perf_counter()
        jax.block_until_ready(evaluator.train(alive, candidates, everyone, (0, steps)))
        return (time.perf_counter() - started) / (steps * evaluator.population)

    def compilations(self) -> int:
        return population.compilations(self._evaluator.programs.train)


def _torch_step(genotype: Genotype, work: Work, data: proxy.ProxyData, *, channels_last: bool) -> Callable[[], float]:
    """Seconds of a step of a decoder in eager PyTorch, as a function that takes them."""
    import torch
    from torch.nn import functional

    from experiments import torch_aux_decoder

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net: Any = torch_aux_decoder.Decoder(aux_cells.flat(genotype), CHANNELS, work.filters, work.classes)
    net = net.to(memory_format=layout)  # PyTorch's own types do not know of this
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, weight_decay=DECAY)
    maps = [
        torch.tensor(np.asarray(data.train_features[stride], np.float32).transpose(0, 3, 1, 2)).to(memory_format=layout)
        for stride in STRIDES
    ]
    labels = torch.tensor(np.asarray(data.train_labels).astype(np.int64))

    def loss_of(logits: torch.Tensor) -> torch.Tensor:
        logits = functional.interpolate(logits, work.size, mode='bilinear', align_corners=False)
        return functional.cross_entropy(logits, labels)

    def step() -> None:
        optimizer.zero_grad()
        logits, auxiliary = net(maps)
        loss = loss_of(logits)
        for other in auxiliary:
            loss = loss + 0.15 * loss_of(other)
        loss.backward()
        optimizer.step()

    step()

    def timed() -> float:
        started = time.perf_counter()
        for _ in range(work.steps):
            step()
        return (time.perf_counter() - started) / work.steps

    return timed
