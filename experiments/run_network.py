"""Runs the program network.jaxexport beside this file. Needs jax, flatbuffers, numpy and pillow; nothing else.

  python run_network.py photo.jpg street.png --out=found
  python run_network.py images.npy found.npz

Images may have any size: one that is smaller than what the program takes is padded, a larger one goes in tiles that
overlap by a quarter, whose probabilities or distances are blended. Into the folder of --out are written, of each image:
of a network of classes a label PNG of their indices, with their colours as its palette; of distances a gray PNG of 16
bits in millimetres (NAME_depth.png). A network of poses takes each image for one person, whom it shows as a whole, and
keypoints.json holds the joints of all, in pixels of the images.

images.npy: [B, H, W, 3], RGB, 0..255, of the program's H and W; found.npz: whatever the program gives, such as classes
[B, H, W] and logits [B, H, W, L].
"""

import json
import pathlib
import struct
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export

HERE = pathlib.Path(__file__).parent
PADDING = 127.5
FAULTS = (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error)  # what Pillow raises for damaged files


def load() -> tuple[Any, Callable[[Any], Any]]:
    """The program, compiled when it is first called."""
    network = export.deserialize(bytearray((HERE / 'network.jaxexport').read_bytes()))
    return network.in_avals[0], jax.jit(network.call)


def run_arrays(images_path: str, found_path: str) -> None:
    """Images in, classes and logits out."""
    takes, call = load()
    np.savez(found_path, **call(np.load(images_path).astype(takes.dtype)))


def run_images(paths: list[str], out: pathlib.Path) -> int:
    """Files of what is found in each image; how many images were broken, which are named and passed over."""
    from PIL import Image

    takes, call = load()
    told = json.loads((HERE / 'network.json').read_text(encoding='utf-8'))
    broken, people = 0, []
    for path, place in places_of(paths, out).items():
        try:
            image = read(path)
        except (*FAULTS, Image.DecompressionBombError) as error:
            print(f'{path}: {error or type(error).__name__}; it is passed over', file=sys.stderr)
            broken += 1
            continue
        out.mkdir(parents=True, exist_ok=True)
        if told.get('skeleton'):
            people.append({'file_name': str(path), 'keypoints': joints_of(image, takes, call).ravel().tolist()})
            print(f'{path}: the joints of one person')
            continue
        for kind, found in maps_of(image, takes, call).items():
            write(kind, found, place, told)
    if people:
        names = told['skeleton']['joints']
        (out / 'keypoints.json').write_text(json.dumps({'joints': names, 'people': people}) + '\n', encoding='utf-8')
        print(out / 'keypoints.json')
    return broken


def write(kind: str, found: np.ndarray, place: pathlib.Path, told: dict[str, Any]) -> None:
    """A label PNG of probabilities [H, W, L], or a PNG of distances [H, W, 1] in millimetres."""
    from PIL import Image

    if kind == 'depth':
        place = place.with_name(f'{place.stem}_depth.png')
        millimetres = np.clip(np.rint(1000 * found[..., 0]), 0, 65_535).astype(np.uint16)
        Image.fromarray(millimetres).save(place)
        print(place, f'{millimetres.min() / 1000:.2f} to {millimetres.max() / 1000:.2f} m')
        return
    label = Image.fromarray(found.argmax(-1).astype(np.uint8))
    label.putpalette([value for colour in told['palette'] for value in colour])
    label.save(place)
    seen, counts = np.unique(np.asarray(label), return_counts=True)
    shares = sorted(zip(counts / counts.sum(), seen.tolist(), strict=True), reverse=True)
    print(place, *(f'{told["classes"][i]} {100 * share:.1f} %' for share, i in shares[:3]))


def places_of(paths: list[str], out: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
    """Image -> its label PNG; nothing is written over an image, or twice."""
    places = {path: out / f'{path.stem}.png' for path in map(pathlib.Path, paths)}
    images = {path.resolve() for path in places}
    for path, place in places.items():
        if place.resolve() in images:
            sys.exit(f'{path}: its label {place} is one of the images; give another --out')
        same = [other for other, at in places.items() if at == place and other != path]
        if same:
            sys.exit(f'{path}: its label {place} is that of {same[0]}, too; give one of them with another --out')
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


def maps_of(image: np.ndarray, takes: Any, call: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """Probabilities [H, W, L] and distances [H, W, 1], whichever the program gives, of an image of any size."""
    size, tile = image.shape[:2], takes.shape[1:3]
    rows, columns = (starts(side, most) for side, most in zip(size, tile, strict=True))
    weight = (edges(tile[0])[:, None] * edges(tile[1]))[..., None]
    totals: dict[str, np.ndarray] = {}
    weights = np.zeros((*size, 1), np.float32)
    for top in rows:
        for left in columns:
            part = image[top : top + tile[0], left : left + tile[1]]
            high, wide = part.shape[:2]
            padded = np.full((1, *tile, 3), PADDING, np.float32)
            padded[0, :high, :wide] = part
            window = np.s_[top : top + high, left : left + wide]
            for kind, found in meanings(call(padded.astype(takes.dtype))).items():
                total = totals.setdefault(kind, np.zeros((*size, found.shape[-1]), np.float32))
                total[window] += weight[:high, :wide] * found[:high, :wide]
            weights[window] += weight[:high, :wide]
    return {kind: total / weights for kind, total in totals.items()}


def meanings(found: Any) -> dict[str, np.ndarray]:
    """Of one image: what the program gives, in the terms in which tiles are averaged."""
    maps = {}
    if 'logits' in found:
        maps['classes'] = np.asarray(jax.nn.softmax(found['logits']))[0]
    if 'depth' in found:
        maps['depth'] = np.asarray(found['depth'])[0, ..., None]
    return maps


def joints_of(image: np.ndarray, takes: Any, call: Callable[[Any], Any]) -> np.ndarray:
    """(x, y, height) of each joint [J, 3] in pixels of an image that shows one person."""
    from PIL import Image

    size, tile = image.shape[:2], takes.shape[1:3]
    zoom = min((to - 1) / max(side - 1, 1) for side, to in zip(size, tile, strict=True))
    shift = [((to - 1) - zoom * (side - 1)) / 2 for side, to in zip(size, tile, strict=True)]  # down, to the right
    # Pillow counts from the corner of a pixel, a network from its middle.
    back = [1 / zoom, 0, -shift[1] / zoom + 0.5 - 0.5 / zoom]
    down = [0, 1 / zoom, -shift[0] / zoom + 0.5 - 0.5 / zoom]
    grey = (128, 128, 128)
    crop = Image.fromarray(image).transform(
        (tile[1], tile[0]), Image.Transform.AFFINE, (*back, *down), Image.Resampling.BILINEAR, fillcolor=grey
    )
    found = np.asarray(call(np.asarray(crop)[None].astype(takes.dtype))['joints'], np.float64)[0]
    return np.stack([(found[:, 0] - shift[1]) / zoom, (found[:, 1] - shift[0]) / zoom, found[:, 2]], -1)


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
