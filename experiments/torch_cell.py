"""A cell in eager PyTorch, built like the released one: the reference of `bench_population.py --torch`, nothing else.

Operators are those of the static view of `dpc_jax.cell` (depthwise, BN, ReLU, pointwise, BN, ReLU; sliding pooling);
it has momentum SGD, and the loss at a quarter of the image's resolution.
"""

import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the name that PyTorch's users know)

from dpc_jax import ops
from dpc_jax.base import FEATURES, Size
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype


def _unit(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


class Branch(nn.Module):
    """One operator of the space."""

    def __init__(self, op: dpc.Op, channels: int, filters: int) -> None:
        super().__init__()
        self.op = op
        self.before: nn.Module = nn.Identity()
        if op.rate is not None:
            depthwise = nn.Conv2d(channels, channels, 3, padding=op.rate, dilation=op.rate, groups=channels, bias=False)
            self.before = _unit(depthwise, channels)
        self.product = _unit(nn.Conv2d(channels, filters, 1, bias=False), filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, D, h, w]."""
        if self.op.grid is None:
            return self.product(self.before(x))
        window = tuple(ops.sliding_window(n, g) for n, g in zip(x.shape[2:], self.op.grid, strict=True))
        pooled = self.product(F.avg_pool2d(x, window, stride=1))
        return F.interpolate(pooled, x.shape[2:], mode='bilinear', align_corners=True)


class Cell(nn.Module):
    """A genotype with its logits."""

    def __init__(self, genotype: Genotype, channels: int, filters: int, classes: int) -> None:
        super().__init__()
        self.inputs = [int(source) for source in genotype.inputs]
        entering = [channels if source == FEATURES else filters for source in self.inputs]
        operators = [dpc.OPS[int(index)] for index in genotype.ops]
        self.branches = nn.ModuleList(Branch(op, c, filters) for op, c in zip(operators, entering, strict=True))
        self.projection = _unit(nn.Conv2d(len(operators) * filters, filters, 1, bias=False), filters)
        self.logits = nn.Conv2d(filters, classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, L, h, w]."""
        outputs: list[torch.Tensor] = []
        for source, branch in zip(self.inputs, self.branches, strict=True):
            outputs.append(branch(features if source == FEATURES else outputs[source]))
        return self.logits(self.projection(F.dropout(torch.cat(outputs, 1), 0.1, self.training)))


def step_seconds(
    genotypes: Sequence[Genotype], *, images: int, size: Size, channels: int, filters: int, classes: int, steps: int
) -> float:
    """Mean seconds per training step over the genotypes, after two steps each to warm up."""
    labelled = [4 * (side - 1) + 1 for side in size]
    spent = 0.0
    for genotype in genotypes:
        features = torch.randn(images, channels, *size)
        labels = torch.randint(classes, (images, *labelled))
        cell = Cell(genotype, channels, filters, classes)
        optimizer = torch.optim.SGD(cell.parameters(), 0.01, momentum=0.9, weight_decay=4e-5)
        for step in range(steps + 2):
            if step == 2:
                started = time.perf_counter()
            optimizer.zero_grad()
            logits = F.interpolate(cell(features), labelled, mode='bilinear', align_corners=True)
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
        spent += time.perf_counter() - started
    return spent / steps / len(genotypes)
