"""Variables of MATLAB files of version 5 and older; those of version 7.3 are HDF5."""

import pathlib
from typing import Any

import scipy.io
from scipy.io.matlab import MatReadError

from dpc_jax.base import InputError

FAULTS = (OSError, ValueError, TypeError, NotImplementedError, IndexError, KeyError, MatReadError)
"""What SciPy raises for files that are damaged, of another kind, or of version 7.3."""


def read(path: pathlib.Path, name: str, **options: Any) -> Any:
    """A variable of a file, read with the options of `scipy.io.loadmat`; InputError where there is none."""
    if not path.is_file():
        raise InputError(f'there is no {path}')
    try:
        held = scipy.io.loadmat(path, **options)
    except FAULTS as error:
        raise InputError(f'{path} is no MATLAB file of version 5: {" ".join(str(error).split())}') from None
    if name not in held:
        raise InputError(f"{path} has no '{name}'")
    return held[name]
