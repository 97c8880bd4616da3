"""Where a score comes from: the device and the commit that are recorded with it."""

import pathlib
import subprocess

import jax


def device() -> str:
    """Kind and number of the devices, as recorded with every score."""
    kinds = [device.device_kind for device in jax.devices()]
    return kinds[0] if len(kinds) == 1 else f'{len(kinds)} x {kinds[0]}'


def commit() -> str:
    """The commit of this code, with '+' where files differ from it; '' outside a git checkout."""
    root = pathlib.Path(__file__).parent.parent
    command = ['git', '-C', str(root), 'describe', '--always', '--abbrev=12', '--dirty=+']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''
