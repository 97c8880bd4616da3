"""A table of the paper (arXiv:1809.04184) beside what was reached here; table1_... to table4_... fill it.

Nothing is computed: rows of evaluations are looked for, and what has not been run is listed with its commands.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import app, flags

from dpc_jax import command_line
from dpc_jax.base import InputError
from experiments import entry, rows
from experiments.rows import Row, Settings

CITYSCAPES_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the test submission (official g3doc/model_zoo.md)
VOC_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # DeepLabv3, arXiv:1706.05587 §4; the DPC paper lists none

IMAGENET = {  # archives with weights of classification: official g3doc/model_zoo.md, slim's README of MobileNet
    'xception_71': 'xception_71_2018_05_09.tar.gz',
    'mobilenet_v2': 'mobilenet_v2_1.0_224.tgz',
}

Markdown = Callable[[Sequence[Row]], str]
"""Rows of any kind -> the text of a table with those that belong to it."""


class Entry(NamedTuple):
    """A row of a table of the paper."""

    name: tuple[str, ...]  # what it is: the first cells
    published: str  # mIoU in %, perhaps with the mark of a footnote
    wanted: tuple[Settings, ...] = ()  # networks that may be this row; (): it is not in this repository
    commands: tuple[str, ...] = ()  # that make a row of the first network
    costs: tuple[str, ...] = ()  # further cells, before the score


class Table(NamedTuple):
    """A table of the paper."""

    title: str
    protocol: str
    heads: tuple[str, ...]  # of the cells of `Entry.name`
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    cost_heads: tuple[str, ...] = ()


def cityscapes(split: str, backbone: str, context: str, **others: object) -> Settings:
    """A network of 19 classes at the protocol of Table 1; `others` are other values of its fields."""
    images = {'val': 500, 'test': 1525}[split]  # official datasets/data_generator.py
    settings = Settings(
        *('cityscapes', split, images, backbone, 1.0, context, 'dpc_top1' if context == 'dpc' else ''),
        decoder=0 if backbone == 'mobilenet_v2' else 4,
        output_stride=16,
        scales=(1.0,),
        flip=False,
    )
    return settings._replace(**others)  # type: ignore[arg-type]


def command(config: str, workdir: str, *overrides: str) -> str:
    """A call of run.py as it is typed; an override is what comes after '--config.'."""
    parts = [f'python run.py --config=configs/{config} --workdir={workdir}', *(f'--config.{x}' for x in overrides)]
    return ' \\\n  '.join(parts)


def network(backbone: str, context: str) -> list[str]:
    """The overrides that make this network of a config that has Xception-71 with the released cell."""
    of_backbone = [f'backbone.name={backbone}'] * (backbone != 'xception_71')
    of_decoder = ['decoder.output_stride=0'] * (backbone == 'mobilenet_v2')
    return [*of_backbone, *of_decoder, *[f'context.name={context}'] * (context != 'dpc')]


def pretraining(backbone: str, context: str) -> str:
    """The command that makes the weights from which the paper's networks start; see `pretrained`."""
    overrides = [*network(backbone, context), 'dataset.root=/data/coco']
    init = f'train.init.checkpoint={IMAGENET[backbone]} --config.train.init.parts=backbone'
    return command('coco.py', _coco(backbone, context), *overrides, init)


def pretrained(backbone: str, context: str) -> str:
    """The override that starts from what `pretraining` made."""
    return f'train.init.checkpoint={_coco(backbone, context)}/weights'


def _coco(backbone: str, context: str) -> str:
    return f'runs/coco_{backbone}_{context}'


def scales(values: Sequence[float]) -> str:
    """The override that evaluates at several scales, of the images and of their mirror images."""
    return f'evaluate.flip=True --config.evaluate.scales="({", ".join(map(str, values))})"'


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(table: Table, found: Sequence[Row]) -> str:
    """The table, its footnotes, and the commands of what has not been run."""
    heads = [*table.heads, *table.cost_heads, 'mIoU % paper', 'reached', *rows.FACTS]
    lines, missing = [], []
    for item in table.entries:
        groups = rows.groups(row for wanted in item.wanted for row in rows.matching(found, wanted))
        published = [*item.name, *item.costs, item.published]
        lines += [[*published, *cells(item, group)] for group in groups]
        if not groups:
            missing += [item] * bool(item.wanted)
            said = f'not run ({len(missing)})' if item.wanted else '–'
            lines.append([*published, said, *['–'] * len(rows.FACTS)])
    parts = [f'# {table.title}', table.protocol, rows.markdown_table(heads, lines, left=len(table.heads)), *table.notes]
    parts += near_misses(table, found)
    if missing:
        parts.append('## Not run')
    for number, item in enumerate(missing, 1):
        parts += [f'({number}) {", ".join(item.name)}:', '```\n' + '\n'.join(item.commands) + '\n```']
    return '\n\n'.join(parts) + '\n'


def cells(item: Entry, group: Sequence[Row]) -> list[str]:
    """What was reached; the backbone too, where several are the same row."""
    said = rows.reached(group)
    return [f'{said}, {group[0].settings.backbone}' if len(item.wanted) > 1 else said, *rows.facts(group)]


def near_misses(table: Table, found: Sequence[Row]) -> list[str]:
    """Rows of the same images that do not belong to this table, and how they differ from the nearest row."""
    wanted = [settings for item in table.entries for settings in item.wanted]
    lines = []
    for row in found:
        same_images = any(row.settings[:2] == settings[:2] for settings in wanted)
        nearest = min((differences(row.settings, settings) for settings in wanted), key=len)
        if same_images and (nearest or row.generated):
            said = 'drawn images' if row.generated else ', '.join(nearest)
            lines.append(f'- {row.path} ({rows.reached([row])}): {said}')
    return ['Evaluations of the same split that are not one of these rows:', '\n'.join(lines)] if lines else []


def differences(settings: Settings, wanted: Settings) -> list[str]:
    """Each field in which they differ."""
    pairs = zip(Settings._fields, settings, wanted, strict=True)
    return [f'{name.replace("_", " ")} {mine} instead of {theirs}' for name, mine, theirs in pairs if mine != theirs]


# ---- main -----------------------------------------------------------------------------------------------------------


def start(made: Markdown) -> None:
    """Parses --rows and --out, prints the Markdown. The flags are defined here, so that tests can import scripts."""
    flags.DEFINE_list('rows', list(rows.FOLDERS), 'Folders with rows of evaluations (metrics.json), at any depth.')
    flags.DEFINE_string('out', '', 'Markdown file.')
    for name in ('rows', 'out'):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # so that --help lists them

    def main(argv: Sequence[str]) -> None:
        del argv
        show(made, flags.FLAGS.rows, pathlib.Path(flags.FLAGS.out).expanduser())

    app.run(entry.one_line_errors(main), flags_parser=command_line.parse_flags)


def show(made: Markdown, folders: Sequence[str], out: pathlib.Path) -> None:
    """Reads rows, prints the text and writes it to the file `out`, unless that is empty."""
    if out.name and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out is '{out}'; it must be a file in a folder that is there")
    found = rows.read(folders)
    rows.warn(found.faults)
    text = made(found.rows)
    print(text, end='')
    if out.name:
        out.write_text(text, encoding='utf-8')
