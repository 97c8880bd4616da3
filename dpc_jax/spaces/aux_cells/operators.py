"""The 11 operators of the auxiliary cell, in the order of the paper's list and of the released genotypes."""

from typing import NamedTuple

KINDS = ('conv', 'separable', 'pooling', 'skip', 'none')
"""Dense convolution; depthwise and 1x1 convolution; mean over the map and 1x1 convolution; the map itself; zeros."""


class Op(NamedTuple):
    """One operator. All but 'skip' and 'none' end in batch norm and ReLU; none changes size or number of channels."""

    name: str  # of the paper's list and the release
    short: str  # in keys
    kind: str
    kernel: int = 1  # its side
    rate: int = 1  # atrous, the same for height and width


OPS: tuple[Op, ...] = (
    Op('conv1x1', 'c1', 'conv'),
    Op('conv3x3', 'c3', 'conv', 3),
    Op('sep_conv_3x3', 's3', 'separable', 3),
    Op('sep_conv_5x5', 's5', 'separable', 5),
    Op('global_average_pool', 'gap', 'pooling'),
    Op('conv3x3_dil3', 'c3d3', 'conv', 3, 3),
    Op('conv3x3_dil12', 'c3d12', 'conv', 3, 12),
    Op('sep_conv_3x3_dil3', 's3d3', 'separable', 3, 3),
    Op('sep_conv_5x5_dil6', 's5d6', 'separable', 5, 6),
    Op('skip_connect', 'skip', 'skip'),
    Op('none', 'none', 'none'),
)
"""A genotype's `ops` are indices into this table (arXiv:1810.10804 §3.2; the release's order)."""

OP_NAMES = tuple(op.name for op in OPS)
SKIP, NONE = OP_NAMES.index('skip_connect'), OP_NAMES.index('none')
CONV1X1 = OP_NAMES.index('conv1x1')

COLOURS = {'conv': 'blue', 'separable': 'green', 'pooling': 'orange', 'skip': 'amber', 'none': 'grey'}


def box_lines(op: Op) -> tuple[str, ...]:
    """What stands in the box of a drawing."""
    names = {'pooling': ('global mean',), 'skip': ('skip',), 'none': ('none',)}
    if op.kind in names:
        return names[op.kind]
    side = f'{op.kernel}×{op.kernel}'
    what = f'{side} conv' if op.kind == 'conv' else f'{side} separable'
    return (what,) if op.rate == 1 else (what, f'rate {op.rate}')
