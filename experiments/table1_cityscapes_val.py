"""Table 1 of the paper (arXiv:1809.04184), Cityscapes val at a single scale: published, and reached here.

  python experiments/table1_cityscapes_val.py --rows=experiments/results,runs --out=table1.md

Params and MAdds of the modules are those that experiments/table1_modules.py counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import paper_table, rows
from experiments.paper_table import Entry, Table
from experiments.rows import Row

COSTS = rows.ROOT / 'experiments/results/table1_modules.json'
XCEPTIONS = ('xception_71', 'xception_65')  # the paper says "modified Xception" without its depth

PUBLISHED = (  # backbone, module, Params, MAdds, mIoU %
    ('MobileNet-v2', 'ASPP', '0.25M', '2.82B', '73.97'),
    ('MobileNet-v2', 'DPC', '0.36M', '3.00B', '75.38 (†)'),
    ('modified Xception', 'ASPP', '1.59M', '18.12B', '80.25'),
    ('modified Xception', 'DPC', '0.81M', '6.84B', '80.85'),
)
PROTOCOL = (
    'Output stride 16, one scale, no mirror images, 500 images, 19 classes. Params and MAdds are of the module alone,'
    ' without its projection. The MobileNet-v2 networks have no decoder, the Xception ones have.'
)
CORRECTED = (
    '(†) Corrected: the transcription of Table 1 that was read here has 75.98, but by its text the paper gains'
    ' 1.4 points over 73.97, which is 75.38.'
)
UNDERCOUNT = (
    '(‡) By the rule that gives the published number, and the true number: the published ones hold one of the three'
    ' separable convolutions of ASPP (experiments/results/table1_modules.md).'
)


def entry(published: Sequence[str], costs: Mapping[str, Any]) -> Entry:
    """A row of the table; `costs` as table1_modules.py writes them, {} where they are not there."""
    backbone, module, params, macs, miou = published
    backbones = ('mobilenet_v2',) if backbone == 'MobileNet-v2' else XCEPTIONS
    context = module.lower()
    wanted = tuple(paper_table.cityscapes('val', name, context) for name in backbones)
    cells = (params, *counted(costs, backbones[0], module, macs))
    return Entry((backbone, module), miou, wanted, training(backbones[0], context), cells)


def counted(costs: Mapping[str, Any], backbone: str, module: str, published_macs: str) -> tuple[str, str, str]:
    """Params here, MAdds published, MAdds here."""
    for row in costs.get('modules', ()):
        if row['module'] == module and backbone in row['backbones']:
            rule, true = row['params_by_the_rule'], row['params']
            params = f'{true / 1e6:.2f}M' if rule == true else f'{rule / 1e6:.2f}M, {true / 1e6:.2f}M (‡)'
            return params, published_macs, f'{row["macs"] / 1e9:.2f}B'
    return '–', published_macs, '–'


def training(backbone: str, context: str) -> tuple[str, ...]:
    """The commands whose last evaluation is the row; see `workdir`."""
    overrides = [*paper_table.network(backbone, context), 'dataset.root=/data/cityscapes']
    overrides.append(paper_table.pretrained(backbone, context))
    return (
        paper_table.pretraining(backbone, context),
        paper_table.command('cityscapes.py', workdir(backbone, context), *overrides),
    )


def workdir(backbone: str, context: str) -> str:
    """Where it trains."""
    return f'runs/cityscapes_{backbone}_{context}'


def markdown(found: Sequence[Row]) -> str:
    """The table of these rows."""
    costs = rows.read_json(COSTS) if COSTS.exists() else {}
    return paper_table.markdown(table(costs), found)


def table(costs: Mapping[str, Any]) -> Table:
    """Table 1."""
    entries = tuple(entry(published, costs) for published in PUBLISHED)
    notes, heads = (CORRECTED, *[UNDERCOUNT] * bool(costs)), ('Params paper', 'here', 'MAdds paper', 'here')
    return Table('Table 1: Cityscapes val', PROTOCOL, ('backbone', 'module'), entries, notes, heads)


if __name__ == '__main__':
    paper_table.start(markdown)
