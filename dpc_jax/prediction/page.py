"""A page of all predictions to look at: each image beside its overlay, the classes with their colours and shares."""

import csv
import html
import io
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpc_jax import files
from dpc_jax.prediction.results import LABELS, OVERLAYS, THUMBNAILS, Row, ending_of

PAGE, TABLE = 'index.html', 'predictions.csv'
SHOWN = 3  # classes that are named below an image

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
    classes: Mapping[str, Any],
) -> list[pathlib.Path]:
    """Writes page and table into the folder of a prediction; gives their paths.

    Args:
      faults: image -> why it has no prediction.
      classes: `classes` and `palette`.
    """
    colours = [f'#{red:02x}{green:02x}{blue:02x}' for red, green, blue in np.asarray(classes['palette']).tolist()]
    names = classes['classes']
    seen = np.mean([row.shares for row in rows], axis=0) if rows else np.zeros(len(names))
    key = ''.join(
        f'<span><i style="background:{colours[i]}"></i>{html.escape(names[i])} {100 * seen[i]:.1f} %</span>'
        for i in np.argsort(-seen, kind='stable')
        if seen[i] > 0
    )
    listed = ''.join(f'<li>{html.escape(_printable(f"{path}: {why}"))}</li>' for path, why in faults.items())
    body = [
        f'<h1>{html.escape(title)}</h1>',
        f'<p>{len(rows)} images; the share of each class, in the mean over the images:</p>',
        f'<p class="key">{key}</p>',
        f'<div class="faults"><p>{len(faults)} without a prediction:</p><ul>{listed}</ul></div>' if faults else '',
        *(_figure(row, names, colours) for row in rows),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + '\n'.join(body) + '\n</body></html>\n'
    return [files.write(folder / PAGE, page), files.write(folder / TABLE, _table(rows, names))]


def _figure(row: Row, names: Sequence[str], colours: Sequence[str]) -> str:
    most = [i for i in np.argsort(-np.array(row.shares), kind='stable')[:SHOWN] if row.shares[i] > 0]
    words = ' '.join(
        f'<i style="background:{colours[i]}"></i>{html.escape(names[i])} {100 * row.shares[i]:.0f} %' for i in most
    )
    overlay, small, label = (
        urllib.parse.quote(f'{folder}/{row.name}{suffix}', errors='surrogateescape')
        for folder, suffix in ((OVERLAYS, ending_of(row.height, row.width)), (THUMBNAILS, '.jpg'), (LABELS, '.png'))
    )
    caption = f'{html.escape(_printable(row.name))} ({row.height}×{row.width}, <a href="{label}">labels</a>)<br>{words}'
    image = f'<a href="{overlay}"><img src="{small}" loading="lazy" alt=""></a>'
    return f'<figure>{image}<figcaption>{caption}</figcaption></figure>'


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['name', 'path', 'height', 'width', *names])
    writer.writerows([_printable(row.name), _printable(row.path), row.height, row.width, *row.shares] for row in rows)
    return text.getvalue()


def _printable(text: str) -> str:
    """File names need not be UTF-8; what is not is shown as a question mark."""
    return text.encode('utf-8', 'replace').decode()
