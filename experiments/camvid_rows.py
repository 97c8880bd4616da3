"""Networks on CamVid, by module: mean and standard deviation over seeds. No numbers are published for them.

  python experiments/camvid_rows.py --rows=experiments/results,runs --out=camvid.md

Runs that differ in the seed alone are averaged: the same network, images, protocol, steps, batch, crop and start.
"""

from collections.abc import Sequence

from experiments import paper_table, rows
from experiments.rows import Row, Settings

MODULES = ('dpc', 'aspp')
PROTOCOL = 'mIoU in % of 11 classes; ± is the sample standard deviation over seeds.'
HEADS = ('module', 'backbone', 'decoder', 'output stride', 'split', 'scales', 'mIoU %', 'of each run')


def command(context: str) -> str:
    """A training and its evaluation, for each of three seeds."""
    workdir = f'runs/camvid_{context}_seed$seed'
    overrides = ['seed=$seed', *[f'context.name={context}'] * (context != 'dpc'), 'dataset.root=/data/camvid']
    init = 'train.init.checkpoint=/data/mobilenet_v2.npz --config.train.init.parts=backbone'
    call = paper_table.command('camvid.py', workdir, *overrides, init)
    return f'for seed in 0 1 2; do {call}; done'


def line(group: Sequence[Row]) -> list[str]:
    """A line of the table, of runs that differ in the seed alone."""
    settings = group[0].settings
    scores = sorted((row.seed or 0, row.miou) for row in group if row.miou is not None)
    listed = [f'{100 * score:.2f}' for _, score in scores]
    mean = rows.mean_and_std([score for _, score in scores]) if len(scores) > 1 else ''.join(listed)
    width = '' if settings.width == 1 else f' x {settings.width:g}'
    return [
        settings.module,
        f'{settings.backbone}{width}',
        f'stride {settings.decoder}' if settings.decoder else 'no',
        str(settings.output_stride),
        f'{settings.split}, {settings.images} images',
        protocol(settings),
        mean or '–',
        ', '.join(listed) or rows.reached(group),
        *rows.facts(group),
    ]


def protocol(settings: Settings) -> str:
    """Scales, and whether mirror images were seen too."""
    return f'{", ".join(map(str, settings.scales))}{" and mirrored" * settings.flip}'


def markdown(found: Sequence[Row]) -> str:
    """The table of these rows."""
    ours = [row for row in found if row.settings.dataset == 'camvid' and not row.generated]
    groups = rows.groups(ours)
    parts = ['# CamVid', PROTOCOL]
    if groups:
        parts.append(rows.markdown_table([*HEADS, *rows.FACTS], map(line, groups), left=6))
    for context in MODULES:
        if not any(row.settings.context == context for row in ours):
            parts += [f'{context}: not run. With', f'```\n{command(context)}\n```']
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    paper_table.start(markdown)
