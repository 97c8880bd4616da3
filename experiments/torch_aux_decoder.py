"""An auxiliary-cell decoder in eager PyTorch, written from the paper's description alone (arXiv:1810.10804 §3).

The reference of `tests/test_aux_decoder.py`. It reads the flat form of a genotype by itself, so that a fault in how
this project reads one would show.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the name that PyTorch's users know)

# Kind, side of the kernel, dilation; in the order of the paper's list.
OPERATORS = (
    *(('conv', 1, 1), ('conv', 3, 1), ('sep', 3, 1), ('sep', 5, 1), ('gap', 1, 1), ('conv', 3, 3)),
    *(('conv', 3, 12), ('sep', 3, 3), ('sep', 5, 6), ('skip', 0, 0), ('none', 0, 0)),
)


def unit(entering: int, filters: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Dense convolution, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(entering, filters, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU())


class Operator(nn.Module):
    """One of the eleven, [B, A, h, w] to the same."""

    def __init__(self, index: int, filters: int, repeats: int) -> None:
        super().__init__()
        self.kind, kernel, dilation = OPERATORS[index]
        self.steps = nn.ModuleList()
        if self.kind in ('conv', 'gap'):
            self.steps.append(unit(filters, filters, kernel, dilation))
        if self.kind == 'sep':
            padding = dilation * (kernel // 2)
            for _ in range(repeats):
                spread = nn.Conv2d(
                    filters, filters, kernel, padding=padding, dilation=dilation, groups=filters, bias=False
                )
                self.steps.append(nn.Sequential(spread, unit(filters, filters)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == 'none':
            return x * 0
        size = x.shape[2:]
        if self.kind == 'gap':
            x = x.mean((2, 3), keepdim=True)
        for step in self.steps:
            x = step(x)
        return x.expand(-1, -1, *size) if self.kind == 'gap' else x


class Cell(nn.Module):
    """`genes`: an operator, then three times two positions and two operators."""

    def __init__(self, genes: Sequence[int], filters: int, repeats: int) -> None:
        super().__init__()
        self.layers = [tuple(genes[start : start + 4]) for start in (1, 5, 9)]
        indices = [genes[0], *(op for layer in self.layers for op in layer[2:])]
        self.operators = nn.ModuleList(Operator(index, filters, repeats) for index in indices)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, ends = [x, self.operators[0](x)], {1}
        for number, (first, second, _, _) in enumerate(self.layers):
            one = self.operators[1 + 2 * number](values[first])
            other = self.operators[2 + 2 * number](values[second])
            ends -= {first, second}
            values += [one, other, one + other]
            ends.add(len(values) - 1)
        return torch.stack([values[end] for end in sorted(ends)]).sum(0)


class Decoder(nn.Module):
    """`genes`: the 19 numbers; `channels`: of the encoder's maps at strides 4, 8, 16, 32."""

    def __init__(
        self, genes: Sequence[int], channels: Sequence[int], filters: int, classes: int, repeats: int = 1
    ) -> None:
        super().__init__()
        cell, connections = genes[:13], genes[13:]
        self.pairs = [tuple(connections[start : start + 2]) for start in (0, 2, 4)]
        self.loose = [block for block in range(3) if 4 + block not in connections]
        self.adapters = nn.ModuleList(unit(entering, filters) for entering in channels)
        self.cells = nn.ModuleList(Cell(cell, filters, repeats) for _ in range(6))
        self.merges = nn.ModuleList(unit(filters, filters) for _ in range(6))
        self.projection = unit(len(self.loose) * filters, filters)
        self.classifier = nn.Conv2d(filters, classes, 3, padding=1)
        self.auxiliary_cells = nn.ModuleList(Cell(cell, filters, repeats) for _ in range(3))
        self.auxiliary_classifiers = nn.ModuleList(nn.Conv2d(filters, classes, 3, padding=1) for _ in range(3))

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits at the stride of the finest loose block, and those of the three auxiliary heads."""
        pool = [adapter(x) for adapter, x in zip(self.adapters, maps, strict=True)]
        for block, pair in enumerate(self.pairs):
            sides = [
                self.merges[2 * block + side](self.cells[2 * block + side](pool[place]))
                for side, place in enumerate(pair)
            ]
            pool.append(torch.stack(enlarged(sides)).sum(0))
        x = torch.cat(enlarged([pool[4 + block] for block in self.loose]), 1)
        logits = self.classifier(self.projection(torch.relu(x)))
        heads = zip(self.auxiliary_cells, self.auxiliary_classifiers, pool[4:], strict=True)
        return logits, [classifier(cell(x)) for cell, classifier, x in heads]


def enlarged(maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bilinearly, to the size of the largest."""
    size = max(tuple(x.shape[2:]) for x in maps)
    return [F.interpolate(x, size, mode='bilinear', align_corners=False) for x in maps]
