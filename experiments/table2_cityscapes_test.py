"""Table 2 of the paper (arXiv:1809.04184), the Cityscapes test server: published, and reached here.

  python experiments/table2_cityscapes_test.py --rows=experiments/results,runs --out=table2.md

The test set has no labels: an evaluation exports label images, the server scores them. Its answer, such as
{"miou": 0.827}, belongs into a file server.json beside the metrics.json of that evaluation.
"""

from collections.abc import Sequence

from experiments import paper_table, table1_cityscapes_val
from experiments.paper_table import CITYSCAPES_SCALES, Entry, Table
from experiments.rows import Row

PROTOCOL = (
    'The published numbers are those that Table 2 of the paper prints, also those of other methods. Here: 1525'
    f' images, output stride 8, mirror images, scales {", ".join(map(str, CITYSCAPES_SCALES))}, which is how the'
    ' released checkpoint was submitted (official model zoo; the paper does not list its own).'
)
BACKBONE = 'xception_71'
COARSE, TEST = 'runs/cityscapes_coarse', 'runs/cityscapes_test'
UNKNOWN = (
    '(†) Trained on fine and coarse labels in the end; the paper gives neither steps nor learning rate of that stage;'
    ' those of the command are a guess.'
)


def commands() -> tuple[str, ...]:
    """Pretraining, training, coarse stage, export of the labels."""
    start = f'train.init.checkpoint={table1_cityscapes_val.workdir(BACKBONE, "dpc")}/weights'
    guess = 'train.steps=30000 --config.train.learning_rate=0.001'
    root = 'dataset.root=/data/cityscapes'
    return (
        *table1_cityscapes_val.training(BACKBONE, 'dpc'),
        paper_table.command('cityscapes.py', COARSE, root, start, 'train.split=trainval_coarse', guess),
        paper_table.command(
            *('cityscapes.py', TEST, 'journey=evaluate', root, f'checkpoint={COARSE}/weights'),
            *('backbone.output_stride=8', 'evaluate.split=test', f'evaluate.export={TEST}/labels'),
            paper_table.scales(CITYSCAPES_SCALES),
        ),
    )


def table() -> Table:
    """Table 2."""
    wanted = tuple(
        paper_table.cityscapes('test', backbone, 'dpc', output_stride=8, scales=CITYSCAPES_SCALES, flip=True)
        for backbone in table1_cityscapes_val.XCEPTIONS
    )
    entries = (
        *(Entry(('PSPNet',), '81.2'), Entry(('Mapillary Research',), '82.0'), Entry(('DeepLabv3+',), '82.1')),
        Entry(('DPC (†)',), '82.7', wanted, commands()),
    )
    return Table('Table 2: Cityscapes test', PROTOCOL, ('method',), entries, (UNKNOWN,))


def markdown(found: Sequence[Row]) -> str:
    """The table of these rows."""
    return paper_table.markdown(table(), found)


if __name__ == '__main__':
    paper_table.start(markdown)
