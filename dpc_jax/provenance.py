"""Where a score comes from: the settings, the device and the commit that are recorded with it.

A study and a work folder belong to the settings that they were begun with; `differences` compares them with
others.
"""

import hashlib
import json
import pathlib
import subprocess
from collections.abc import Container, Mapping
from typing import Any

import jax

MISSING = 'none'  # what `differences` shows of a field that one side lacks


def device() -> str:
    """Kind and number of the devices, as recorded with every score."""
    kinds = [device.device_kind for device in jax.devices()]
    return kinds[0] if len(kinds) == 1 else f'{len(kinds)} x {kinds[0]}'


def commit() -> str:
    """The commit of this code, with '+' where files differ from it; '' where no git repository has this code.

    An installed package may lie inside a repository of something else: then this file is not one of that one's.
    """
    try:
        _git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)
        return _git('describe', '--always', '--abbrev=12', '--dirty=+').strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def _git(*arguments: str) -> str:
    command = ['git', '-C', str(pathlib.Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def flat(settings: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
    """Dotted names -> values as JSON text, so that what comes back from a storage compares equal."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f'{prefix}{name}.')
        else:
            found[f'{prefix}{name}'] = json.dumps(value, default=str)
    return found


def nested(fields: Mapping[str, str]) -> dict[str, Any]:
    """Inverse of `flat`."""
    tree: dict[str, Any] = {}
    for name, text in fields.items():
        *parents, last = name.split('.')
        part = tree
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = json.loads(text)
    return tree


def settings_hash(settings: Mapping[str, Any]) -> str:
    """12 hex digits, equal for equal settings whatever their order or nesting (`{'a.b': 1}` is `{'a': {'b': 1}}`)."""
    return hashlib.sha256(json.dumps(flat(settings), sort_keys=True).encode()).hexdigest()[:12]


def differences(
    there: Mapping[str, str], here: Mapping[str, str], *, free: Container[str] = ()
) -> list[tuple[str, str, str]]:
    """(name, value there, value here) of each field of two `flat` settings that differs and is not `free`.

    A field that is null on one side and missing on the other is the same; other missing ones are shown as `MISSING`.
    """
    return [
        (name, there.get(name, MISSING), here.get(name, MISSING))
        for name in sorted({*there, *here})
        if name not in free and there.get(name, 'null') != here.get(name, 'null')
    ]
