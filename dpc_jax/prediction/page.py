"""A page of all predictions to look at: each image beside its overlay, the channels with their colours."""

import csv
import html
import io
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence

import numpy as np

from dpc_jax import files
from dpc_jax.prediction.results import OVERLAYS, THUMBNAILS, Row
from dpc_jax.task import Task

PAGE, TABLE = 'index.html', 'predictions.csv'

STYLE = """
body { font-family: sans-serif; margin: 1.5rem; color: #1a1a1a; background: #fff; }
figure { display: inline-block; margin: 0 1rem 1.2rem 0; vertical-align: top; }
figcaption { font-size: .8rem; max-width: 36rem; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; border-radius: 3px; }
.key span { display: inline-block; margin: 0 1rem .4rem 0; font-size: .85rem; white-space: nowrap; }
.key i, figcaption i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.key i, figcaption i { border: 1px solid #8c8c8c; }
.faults { color: #b00020; }
"""


def write_page(
    folder: pathlib.Path,
    rows: Sequence[Row],
    faults: Mapping[str, str],
    *,
    title: str,
    task: Task,
) -> list[pathlib.Path]:
    """Writes page and table, and what the task collects of all images, into the folder; gives their paths.

    `faults`: image -> why it has no prediction.
    """
    colours = {name: _hexadecimal(colour) for name, colour in zip(task.names, task.palette.tolist(), strict=True)}
    shares = {
        name: np.mean([row.summary[name] for row in rows]) for name in task.names if rows and name in rows[0].summary
    }
    shown = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])
    key = ''.join(_span(name, colours[name], f' {100 * shares[name]:.1f} %') for name in shown)
    about = '; the share of each class, in the mean over the images' if shown else ''
    if not shares:
        key = ''.join(_span(name, colour) for name, colour in colours.items())
    listed = ''.join(f'<li>{html.escape(_printable(f"{path}: {why}"))}</li>' for path, why in faults.items())
    body = [
        f'<h1>{html.escape(title)}</h1>',
        f'<p>{len(rows)} images{about}:</p>',
        f'<p class="key">{key}</p>',
        f'<div class="faults"><p>{len(faults)} without a prediction:</p><ul>{listed}</ul></div>' if faults else '',
        *(_figure(row, task, colours) for row in rows),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + '\n'.join(body) + '\n</body></html>\n'
    collected = task.collected([(row.name, _printable(row.path), row.summary) for row in rows])
    texts = {PAGE: page, TABLE: _table(rows), **collected}
    return [files.write(folder / name, text) for name, text in texts.items()]


def _hexadecimal(colour: Sequence[int]) -> str:
    red, green, blue = colour
    return f'#{red:02x}{green:02x}{blue:02x}'


def _span(name: str, colour: str, more: str = '') -> str:
    return f'<span><i style="background:{colour}"></i>{html.escape(name)}{more}</span>'


def _figure(row: Row, task: Task, colours: Mapping[str, str]) -> str:
    words = html.escape(task.caption(row.summary))
    for name, colour in colours.items():  # a patch of colour before the name of its class
        named = html.escape(name)
        words = re.sub(rf'(^|, ){re.escape(named)} ', rf'\1<i style="background:{colour}"></i>{named} ', words)
    places = {
        kind: urllib.parse.quote(f'{kind}/{row.name}{suffix}', errors='surrogateescape')
        for kind, suffix in (*row.files.items(), (THUMBNAILS, '.jpg'))
    }
    overlay, small = places.pop(OVERLAYS), places.pop(THUMBNAILS)
    links = ''.join(f', <a href="{link}">{kind}</a>' for kind, link in places.items())
    caption = f'{html.escape(_printable(row.name))} ({row.height}×{row.width}{links})<br>{words}'
    image = f'<a href="{overlay}"><img src="{small}" loading="lazy" alt=""></a>'
    return f'<figure>{image}<figcaption>{caption}</figcaption></figure>'


def _table(rows: Sequence[Row]) -> str:
    names = [name for name, value in rows[0].summary.items() if isinstance(value, int | float)] if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['name', 'path', 'height', 'width', *names])
    writer.writerows(
        [_printable(row.name), _printable(row.path), row.height, row.width, *(row.summary[name] for name in names)]
        for row in rows
    )
    return text.getvalue()


def _printable(text: str) -> str:
    """File names need not be UTF-8; what is not is shown as a question mark."""
    return text.encode('utf-8', 'replace').decode()
