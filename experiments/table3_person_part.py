"""Table 3 of the paper (arXiv:1809.04184), PASCAL-Person-Part val: published, and reached here.

python experiments/table3_person_part.py --rows=experiments/results,runs --out=table3.md
"""

from collections.abc import Sequence

from experiments import paper_table
from experiments.paper_table import VOC_SCALES, Entry, Table
from experiments.rows import Row, Settings

IMAGES = 1817  # of val, arXiv:1511.03339
WORKDIR = 'runs/person_part'
PROTOCOL = (
    'The published numbers are those that Table 3 of the paper prints, also those of other methods. Here:'
    f' {IMAGES} images, output stride 16, mirror images, scales {", ".join(map(str, VOC_SCALES))} (DeepLabv3,'
    ' arXiv:1706.05587; the paper does not list its own).'
)


def commands() -> tuple[str, ...]:
    """Pretraining, training, evaluation at several scales."""
    root, config = 'dataset.root=/data/person_part', 'person_part.py'
    start = paper_table.pretrained('xception_71', 'dpc')
    test = ('journey=evaluate', root, f'checkpoint={WORKDIR}/weights', paper_table.scales(VOC_SCALES))
    return (
        paper_table.pretraining('xception_71', 'dpc'),
        paper_table.command(config, WORKDIR, root, start),
        paper_table.command(config, f'{WORKDIR}_scales', *test),
    )


def wanted(backbone: str) -> Settings:
    """The network and the protocol."""
    return Settings(
        *('person_part', 'val', IMAGES, backbone, 1.0, 'dpc', 'dpc_top1'),
        decoder=4,
        output_stride=16,
        scales=VOC_SCALES,
        flip=True,
    )


def table() -> Table:
    """Table 3."""
    entries = (
        *(Entry(('Liang et al.',), '63.57'), Entry(('Xia et al.',), '64.39'), Entry(('Fang et al.',), '67.60')),
        Entry(('DPC',), '71.34', (wanted('xception_71'), wanted('xception_65')), commands()),
    )
    return Table('Table 3: PASCAL-Person-Part val', PROTOCOL, ('method',), entries)


def markdown(found: Sequence[Row]) -> str:
    """The table of these rows."""
    return paper_table.markdown(table(), found)


if __name__ == '__main__':
    paper_table.start(markdown)
