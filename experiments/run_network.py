"""Runs the program network.jaxexport beside this file. Needs jax, flatbuffers and numpy; nothing else.

  python run_network.py images.npy found.npz

images.npy: [B, H, W, 3], RGB, 0..255, of the program's H and W; found.npz: classes [B, H, W], logits [B, H, W, L].
"""

import pathlib
import sys

import jax
import numpy as np
from jax import export


def main(images_path: str, found_path: str) -> None:
    """Images in, classes and logits out."""
    network = export.deserialize(bytearray(pathlib.Path(__file__).with_name('network.jaxexport').read_bytes()))
    images = np.load(images_path).astype(network.in_avals[0].dtype)
    np.savez(found_path, **jax.jit(network.call)(images))


if __name__ == '__main__':
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__)
