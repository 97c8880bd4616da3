"""Where a score comes from: the device and the commit that are recorded with it."""

import pathlib
import subprocess

import jax


def device() -> str:
    """Kind and number of the devices, as recorded with every score."""
    kinds = [device.device_kind for device in jax.devices()]
    return kinds[0] if len(kinds) == 1 else f'{len(kinds)} x {kinds[0]}'


def commit() -> str:
    """The commit of this code, with '+' where files differ from it; '' where no git repository has this code.

    An installed package may lie inside a repository of something else: this file is not among the files of that one.
    """
    try:
        _git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)
        return _git('describe', '--always', '--abbrev=12', '--dirty=+').strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def _git(*arguments: str) -> str:
    command = ['git', '-C', str(pathlib.Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
