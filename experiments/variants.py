"""Proxies that differ from a config in some fields, each prepared in a folder of its own.

The folder is below the work folder, and backbones that were trained there serve the variants too (a file's name says
what it was trained on, so a variant that needs another one trains it).
"""

import ast
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import ml_collections

from dpc_jax import bench, files
from dpc_jax.base import InputError

Fields = Mapping[str, Any]
"""Dotted name of a field of the config -> value."""


def value_of(text: str) -> Any:
    """A value as it stands on a command line: what Python reads it as, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def split(text: str, at: str = ',') -> list[str]:
    """The parts between letters `at` that are not within brackets."""
    parts, depth = [''], 0
    for letter in text:
        depth += (letter in '([') - (letter in ')]')
        if letter == at and depth == 0:
            parts.append('')
        else:
            parts[-1] += letter
    return parts


def read(text: str, flag: str = '--variants', taken: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Name -> fields, of 'NAME:FIELD=VALUE,FIELD=VALUE;NAME:...'; InputError for anything else or a name twice."""
    found: dict[str, dict[str, Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(';'))):
        name, colon, fields = part.partition(':')
        pairs = [pair.partition('=') for pair in split(fields)]
        if not colon or not name.strip() or not all(key.strip() and equals for key, equals, _ in pairs):
            raise InputError(f"{flag} has '{part}'; each is NAME:FIELD=VALUE,FIELD=VALUE")
        if name.strip() in (*found, *taken):
            raise InputError(f"{flag} has two proxies '{name.strip()}'")
        found[name.strip()] = {key.strip(): value_of(value.strip()) for key, _, value in pairs}
    return found


def with_fields(
    config: ml_collections.ConfigDict, name: str, fields: Fields, flag: str = '--variants'
) -> ml_collections.ConfigDict:
    """The config of a variant; InputError for a field that it lacks or a value of another type."""
    changed = config.copy_and_resolve_references()
    changed.lock()
    for field, value in fields.items():
        try:
            changed.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            why = ' '.join(str(error.args[0] if error.args else error).split())
            raise InputError(f"{flag}, '{name}': {field}={value!r}: {why}") from error
    return changed


def prepare(config: ml_collections.ConfigDict, workdir: pathlib.Path, name: str) -> bench.Bench:
    """A variant's config, prepared in `workdir/variants/NAME` with the backbones of the work folder."""
    place = workdir / 'variants' / ''.join(letter if letter.isalnum() else '_' for letter in name)
    place.mkdir(parents=True, exist_ok=True)
    for backbone in workdir.glob('backbone-*.npz'):
        if not (place / backbone.name).exists():
            with files.whole(place / backbone.name) as draft:
                shutil.copy(backbone, draft)
    return bench.prepare(config, place)
