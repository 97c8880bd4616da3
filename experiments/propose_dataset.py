"""Looks at a folder of images and labels and proposes the `dataset.json` by which it is read (docs/own_data.md).

  python experiments/propose_dataset.py --root=/data/mine
  python experiments/propose_dataset.py --root=/data/mine --write

Finds the folders, suffixes, splits and the kind of labels, counts the values in label files, and prints the file with
what it stands on. `proposed.png` in --out shows images, labels and colours. With --write the file is written into the
root, where names of classes are to be put right. Exit code: 2 if no two files fit, or the file is there already.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from dpc_jax import command_line, datasets, files
from dpc_jax.base import InputError
from dpc_jax.datasets import folders
from dpc_jax.datasets.folders import description as descriptions
from experiments import common, contact_sheet, folder_trees, label_values

ROOT = flags.DEFINE_string('root', '', 'The folder.')
OUT = flags.DEFINE_string('out', '.', 'Folder for the picture.')
WRITE = flags.DEFINE_bool('write', False, 'Write dataset.json into the root.')
REPLACE = flags.DEFINE_bool('replace', False, 'Even if there is one.')
LABELS = flags.DEFINE_integer('labels', 500, 'Label files that are looked at, evenly drawn; 0 is all.')
IMAGES = flags.DEFINE_integer('images', 8, 'Images in the picture.')

SHOWN = 30  # values in the table, the most frequent
NAMED = 5  # files in a line


def values_table(seen: label_values.Seen, facts: folders.Description) -> list[str]:
    """Markdown: a row for each value or colour, with its class."""
    names: dict[label_values.Value, str] = dict.fromkeys(
        (value for value in facts.unknown_values if not isinstance(value, str)), '(not labelled)'
    )
    for label, name in enumerate(facts.classes):
        held = (facts.colours[label],) if seen.is_colour else facts.values[label]
        names |= dict.fromkeys(held, name)
    total = max(1, sum(seen.pixels.values()))
    lines = [f'| {"colour" if seen.is_colour else "value"} | class | % of pixels | files |', '|:--|:--|--:|--:|']
    most = sorted(seen.pixels, key=lambda value: -seen.pixels[value])
    lines += [
        f'| {value} | {names.get(value, "")} | {100 * seen.pixels[value] / total:.3f} | {seen.files[value]} |'
        for value in most[:SHOWN]
    ]
    return [*lines, *[f'and {len(most) - SHOWN} more'] * (len(most) > SHOWN)]


def proposed(root: pathlib.Path) -> tuple[folders.Description, list[str]]:
    """The description of a folder, and what was seen, in lines; InputError if no two files fit."""
    found = folder_trees.find(root)
    splits, source = folder_trees.splits_of(root, found)
    paths = [root / label for _, label in found.pairs]
    if LABELS.value and len(paths) > LABELS.value:
        paths = [paths[at] for at in np.linspace(0, len(paths) - 1, LABELS.value).astype(int)]
    seen = label_values.look(paths)
    fields, notes = label_values.propose(seen, root)
    given = {name: value for name, value in found.fields.items() if value}
    read = {**fields, **given, 'splits': splits}
    facts = folders.Description(**{name: descriptions.READERS[name](value, name) for name, value in read.items()})
    descriptions.check(facts)
    lines = [
        f'images: {found.fields["images"]}, *{found.fields["image_suffix"] or " (any ending)"}, {len(found.pairs)} with'
        f' a label, such as {found.pairs[0][0]}',
        f'labels: {found.fields["labels"]}, *{found.fields["label_suffix"] or " (any ending)"}, such as'
        f' {found.pairs[0][1]}; {seen.looked_at} were looked at',
        f'splits: {", ".join(f"{name} {value}" for name, value in splits.items())} ({source})',
        *(f'classes: {note}' for note in notes),
        *(f'faulty: {fault}' for fault in seen.faults[:NAMED]),
    ]
    missing = folder_trees.without_label(root, found, found.splits.values())
    if missing:
        lines.append(f'{len(missing)} images have no label, such as {", ".join(missing[:NAMED])}')
    return facts, [*lines, '', *values_table(seen, facts), '']


def main(argv: Sequence[str]) -> None:
    """Looks, prints, draws, writes."""
    del argv
    if not ROOT.value:
        raise InputError('--root is empty; give the folder of images and labels')
    if LABELS.value < 0 or IMAGES.value < 1:
        raise InputError(f'--labels is {LABELS.value} and --images {IMAGES.value}; at least 0 and 1')
    root = datasets.open_root(ROOT.value, 'folders')
    target = root / folders.FILE
    if WRITE.value and target.exists() and not REPLACE.value:
        raise InputError(f'{target} is there already; --replace writes another in its place')
    facts, lines = proposed(root)
    print('\n'.join([*lines, facts.to_json()]))
    for split, _ in facts.splits:
        try:
            dataset = folders.described(facts, root, split)
            print(f'{split}: {len(dataset)} images')
        except InputError as error:
            print(f'{split}: {error}')
            continue
        if split == facts.splits[0][0] and (sheet := contact_sheet.contact_sheet(dataset, IMAGES.value)) is not None:
            files.make_folder(pathlib.Path(OUT.value).expanduser(), '--out')
            picture = pathlib.Path(OUT.value).expanduser() / 'proposed.png'
            sheet.savefig(picture, dpi=110)
            print(picture)
    if WRITE.value:
        files.write(target, facts.to_json())
        print(target)
    else:
        print(f'--write writes {target}')


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
