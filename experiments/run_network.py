"""Runs the program network.jaxexport beside this file. Needs jax, flatbuffers, numpy and pillow; nothing else.

  python run_network.py photo.jpg street.png --out=found
  python run_network.py images.npy found.npz

Images may have any size: one that is smaller than what the program takes is padded, a larger one goes in tiles that
overlap by a quarter, whose probabilities are blended. Of each image a label PNG of the classes' indices, with their
colours as its palette, is written into the folder of --out.

images.npy: [B, H, W, 3], RGB, 0..255, of the program's H and W; found.npz: classes [B, H, W], logits [B, H, W, L].
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export

HERE = pathlib.Path(__file__).parent
PADDING = 127.5


def load() -> tuple[Any, Callable[[Any], Any]]:
    """The program, compiled when it is first called."""
    network = export.deserialize(bytearray((HERE / 'network.jaxexport').read_bytes()))
    return network.in_avals[0], jax.jit(network.call)


def run_arrays(images_path: str, found_path: str) -> None:
    """Images in, classes and logits out."""
    takes, call = load()
    np.savez(found_path, **call(np.load(images_path).astype(takes.dtype)))


def run_images(paths: list[str], out: pathlib.Path) -> int:
    """A label PNG of each image file; how many files were broken, which are named and passed over."""
    from PIL import Image

    takes, call = load()
    told = json.loads((HERE / 'network.json').read_text(encoding='utf-8'))
    broken = 0
    for path, place in places_of(paths, out).items():
        try:
            image = read(path)
        except (OSError, SyntaxError, ValueError) as error:
            print(f'{path}: {error}; it is passed over', file=sys.stderr)
            broken += 1
            continue
        out.mkdir(parents=True, exist_ok=True)
        label = Image.fromarray(classes_of(image, takes, call))
        label.putpalette([value for colour in told['palette'] for value in colour])
        label.save(place)
        seen, counts = np.unique(np.asarray(label), return_counts=True)
        shares = sorted(zip(counts / counts.sum(), seen.tolist(), strict=True), reverse=True)
        print(place, *(f'{told["classes"][i]} {100 * share:.1f} %' for share, i in shares[:3]))
    return broken


def places_of(paths: list[str], out: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
    """Image -> its label PNG; nothing is written over an image, or twice."""
    places = {path: out / f'{path.stem}.png' for path in map(pathlib.Path, paths)}
    images = {path.resolve() for path in places}
    for path, place in places.items():
        if place.resolve() in images or list(places.values()).count(place) > 1:
            sys.exit(f'{path}: {place} is an image, or is of another one, too; give another --out')
    return places


def read(path: pathlib.Path) -> np.ndarray:
    """RGB [H, W, 3] in 0..255, upright; of gray of 16 bits the upper 8."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode == 'F' or (image.mode == 'I' and file.format not in ('PNG', 'PPM')):
            raise ValueError('gray values of 32 bits have no known range; save it with 8 or 16 bits')
        if image.mode.startswith('I'):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(image.convert('RGB'))


def classes_of(image: np.ndarray, takes: Any, call: Callable[[Any], Any]) -> np.ndarray:
    """The class of each pixel [H, W] of an image [H, W, 3] of any size."""
    size, tile = image.shape[:2], takes.shape[1:3]
    rows, columns = (starts(side, most) for side, most in zip(size, tile, strict=True))
    weight = (edges(tile[0])[:, None] * edges(tile[1]))[..., None]
    total, weights = np.zeros((*size, 1), np.float32), np.zeros((*size, 1), np.float32)
    for top in rows:
        for left in columns:
            part = image[top : top + tile[0], left : left + tile[1]]
            high, wide = part.shape[:2]
            padded = np.full((1, *tile, 3), PADDING, np.float32)
            padded[0, :high, :wide] = part
            scores = np.asarray(jax.nn.softmax(call(padded.astype(takes.dtype))['logits']))[0, :high, :wide]
            if not weights.any():
                total = np.zeros((*size, scores.shape[-1]), np.float32)
            total[top : top + high, left : left + wide] += weight[:high, :wide] * scores
            weights[top : top + high, left : left + wide] += weight[:high, :wide]
    return (total / weights).argmax(-1).astype(np.uint8)


def starts(side: int, tile: int) -> list[int]:
    """Where tiles begin along an axis: evenly spaced, overlapping by a quarter at least."""
    count = 1 if side <= tile else -(-(side - tile) // (tile - tile // 4)) + 1
    return np.round(np.linspace(0, max(0, side - tile), count)).astype(int).tolist()


def edges(side: int) -> np.ndarray:
    """How much each row of a tile counts: it rises from the edges over a quarter of the tile."""
    places = np.arange(side)
    return (np.minimum(np.minimum(places, side - 1 - places), side // 4) + 1).astype(np.float32)


def main(arguments: list[str]) -> None:
    """Image files, or arrays."""
    out = [argument.removeprefix('--out=') for argument in arguments if argument.startswith('--out=')]
    paths = [argument for argument in arguments if not argument.startswith('--')]
    if out and paths:
        sys.exit(run_images(paths, pathlib.Path(out[-1])) > 0)
    elif len(arguments) == len(paths) == 2 and paths[0].endswith('.npy'):
        run_arrays(*paths)
    else:
        sys.exit(__doc__)


if __name__ == '__main__':
    main(sys.argv[1:])
