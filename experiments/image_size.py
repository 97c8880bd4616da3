"""How the scripts read sizes of images from the command line."""

from dpc_jax.base import InputError, Size


def parse(text: str, flag: str) -> Size:
    """(height, width) of `1025x2049`; InputError, naming the flag, for any other text."""
    sides = text.split('x')
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"--{flag} is '{text}'; it must be HEIGHTxWIDTH in pixels, e.g. 1025x2049")
    return int(sides[0]), int(sides[1])
