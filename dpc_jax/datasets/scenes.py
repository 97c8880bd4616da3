"""Procedural street scenes: a boulevard seen from its middle, drawn when asked for. No download, no file.

Nine kinds of things, four of which come in two classes that look exactly alike. What tells the two apart is a cue far
away, and each of the four needs another reach and another direction. W, H: width and height of the image.

    classes               cue                                         from an object's pixel to its nearest cue
    road / bus lane       paint of the kerb at the outer side, white  0 to 0.27 W sideways; growing towards the bottom
                          or orange; of each side of its own          and the middle of the image
    house / shop          roof, terracotta or turquoise; of each      0.1 to 0.55 H upwards; only the ground floor is
                          building of its own                         house or shop, the wall above is `building`
    waiting / walking     lit board across the street, red or green;  0.45 to 0.9 W sideways, in about the same rows;
                          of each side of its own                     the board near by is for the people over there
    car / taxi            sky, day or dusk; of the whole scene        0.15 to 0.75 H upwards, or the image as a whole

Every coin of these (`Context`) is fair and independent of all else, and nothing but its cue is drawn with it: who
doesn't see the cue can only guess. 0.27 W are 52 pixels at 129x193 and 104 at 257x385; 0.55 H are 71 and 141.

Edges are anti-aliased (drawn twice as large, then averaged), and a pixel that holds two classes is ignored.
"""

import dataclasses
import hashlib
import inspect
import sys
from typing import ClassVar, NamedTuple

import cv2
import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample, Size
from dpc_jax.canvas import Canvas, Colour, Point
from dpc_jax.datasets import SPLITS, Dataset

CLASSES = (
    *('sky', 'building', 'house', 'shop', 'tree', 'pole', 'pavement'),
    *('road', 'bus lane', 'car', 'taxi', 'waiting', 'walking'),
)
SKY, BUILDING, HOUSE, SHOP, TREE, POLE, PAVEMENT, ROAD, BUS_LANE, CAR, TAXI, WAITING, WALKING = range(len(CLASSES))

PAIRS = ((ROAD, BUS_LANE), (HOUSE, SHOP), (WAITING, WALKING), (CAR, TAXI))  # look alike

MIN_SIDE = 65  # pixels; in smaller images poles and people would be less than a few pixels wide
MAX_NOISE = 64  # gray levels; beyond, little can be seen
SIDES = (0, 1)  # of the street: left, right


# The cues, by the coin: the only colours that depend on the context.
KERBS: tuple[Colour, Colour] = ((245, 245, 240), (255, 130, 10))
ROOFS: tuple[Colour, Colour] = ((178, 70, 50), (25, 150, 155))
SIGNALS: tuple[Colour, Colour] = ((255, 30, 45), (40, 245, 70))
SKIES: tuple[tuple[Colour, Colour], tuple[Colour, Colour]] = (
    ((92, 158, 235), (205, 228, 246)),  # day: top, horizon
    ((92, 70, 140), (248, 176, 128)),  # dusk
)

# All other colours.
WALLS: tuple[Colour, ...] = ((232, 214, 184), (214, 190, 182), (196, 200, 206), (222, 206, 214), (190, 180, 160))
COATS: tuple[Colour, ...] = ((60, 66, 104), (96, 66, 98), (112, 96, 78), (60, 62, 66), (170, 160, 140))
PAINTS: tuple[Colour, ...] = ((226, 228, 230), (48, 58, 92), (150, 154, 160), (92, 40, 52), (40, 42, 46))
LEAVES: tuple[Colour, ...] = ((86, 124, 62), (70, 108, 58), (112, 136, 66))
METAL: Colour = (66, 70, 76)
GLASS: Colour = (74, 90, 108)

ROUGHNESS = np.array([0.3, 1, 1, 1, 2.5, 1, 1, 1, 1, 0.7, 0.7, 1, 1], np.float32)
"""Texture of each class, in units of `noise`; equal for the two classes of a pair."""

# Lines along the street, as the x where they meet the bottom of the image on the left side (mirrored on the right).
WALL_X, KERB_X, WAY_X, MEDIAN_X = -0.6, -0.01, 0.07, 0.46


class Context(NamedTuple):
    """The coins: all that decides between classes that look alike; False is the first class of a pair."""

    bus_lane: tuple[bool, bool]  # [side]
    shop: tuple[tuple[bool, bool], tuple[bool, bool]]  # [side][building, the farther one first]
    walking: tuple[bool, bool]  # [side] on which the people are; their signal stands on the other
    taxi: bool


class View(NamedTuple):
    """Where all lines along the street meet."""

    x: float
    horizon: float

    def point(self, side: int, bottom: float, near: float) -> Point:
        """On the line that ends at x = `bottom`; `near` is 0 at the horizon and 1 at the bottom of the image."""
        end = bottom if side == 0 else 1 - bottom
        return self.x + (end - self.x) * near, self.horizon + (1 - self.horizon) * near

    def strip(self, side: int, left: float, right: float, far: float = 0.0, near: float = 1.0) -> list[Point]:
        """The ground between two such lines."""
        return [self.point(side, *corner) for corner in ((left, far), (left, near), (right, near), (right, far))]


@dataclasses.dataclass(frozen=True)
class Scenes(Dataset):
    """`count` scenes; example i depends on seed, split, size, noise and i alone."""

    name: ClassVar[str] = 'scenes'
    classes: ClassVar[tuple[str, ...]] = CLASSES
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = np.frombuffer(
        bytes.fromhex('78aadc 6e6464 c8785a 3ca0a0 5a8c3c f0dc5a e6c8e6 804080 f08c28 141e8c 5a82fa dc143c 3cdc5a'),
        np.uint8,
    ).reshape(-1, 3)

    count: int
    size: Size
    seed: int
    noise: float

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SegmentationExample:
        if not 0 <= index < self.count:
            raise IndexError(f'scene {index} of {self.count}')
        key = np.random.SeedSequence(self.seed, spawn_key=(SPLITS.index(self.split), index))
        context_key, scene_key = key.spawn(2)
        image, label = draw(scene_key, toss(context_key), size=self.size, noise=self.noise)
        return SegmentationExample(image, label, self.example_name(index))

    def example_name(self, index: int) -> str:
        """What the scene is drawn from."""
        return f'scene {index} of {self.split}, seed {self.seed}'

    def image_bytes(self, index: int) -> bytes:
        """A PNG of the scene."""
        return cv2.imencode('.png', self[index].image[:, :, ::-1])[1].tobytes()

    def fingerprint(self) -> str:
        """Also of this file and of one scene, because the drawing is code and changes with them and with OpenCV."""
        parts = (repr(self).encode(), inspect.getsource(sys.modules[__name__]).encode(), self[0].image.tobytes())
        return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def load(config: ml_collections.ConfigDict, split: str) -> Scenes:
    """Scenes of one split, drawn from the seed.

    config: `size` (height, width in pixels, 65 at least; best output_stride * k + 1), `num_train` and `num_val` (scenes
    in each split, 1 at least), `seed` (int >= 0), `noise` (standard deviation of the texture in gray levels, >= 0).
    """
    size = tuple(config.size)
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise InputError(f'dataset.size is {size}; allowed: (height, width), each {MIN_SIDE} at least')
    count = {'train': config.num_train, 'val': config.num_val}[split]
    if count < 1:
        raise InputError(f'dataset.num_{split} is {count}; allowed: 1 and more')
    if config.seed < 0:
        raise InputError(f'dataset.seed is {config.seed}; allowed: 0 and more')
    if not 0 <= config.noise <= MAX_NOISE:
        raise InputError(f'dataset.noise is {config.noise}; allowed: 0..{MAX_NOISE} gray levels')
    return Scenes(split, count, size, config.seed, float(config.noise))


def toss(key: np.random.SeedSequence) -> Context:
    """All coins, fair and independent."""
    a, b, c, d, e, f, g, h, i = (np.random.default_rng(key).random(9) < 0.5).tolist()
    return Context((a, b), ((c, d), (e, f)), (g, h), i)


def draw(
    key: np.random.SeedSequence, context: Context, *, size: Size, noise: float
) -> tuple[UInt8[np.ndarray, 'H W 3'], UInt8[np.ndarray, 'H W']]:
    """Image and label of one scene, from far to near; what is random in it doesn't depend on the context."""
    random = np.random.default_rng(key)
    double = (2 * size[0], 2 * size[1])
    canvas = Canvas(np.empty((*double, 3), np.uint8), np.full(double, SKY, np.uint8))
    view = View(random.uniform(0.45, 0.55), random.uniform(0.37, 0.42))
    _draw_sky(canvas, random, view, dusk=context.taxi)
    _draw_ground(canvas, random, view, context.bus_lane)
    for side in SIDES:
        corner = random.uniform(0.16, 0.2)
        edges = ((corner, random.uniform(0.3, 0.34)), (-0.02, corner))
        for span, shop in zip(edges, context.shop[side], strict=True):
            _draw_building(canvas, random, view, side, span, shop=shop)
    _draw_trees(canvas, random, view)
    for side in SIDES:
        _draw_people(canvas, random, view, side, WALKING if context.walking[side] else WAITING)
        _draw_signal(canvas, random, view, side, go=context.walking[1 - side])
        _draw_cars(canvas, random, view, side, TAXI if context.taxi else CAR)
    return _develop(canvas, random, noise)


def _draw_sky(canvas: Canvas, random: np.random.Generator, view: View, *, dusk: bool) -> None:
    top, low = (np.array(_vary(random, colour)) for colour in SKIES[dusk])
    height = canvas.label.shape[0]
    share = np.clip(np.arange(height) / (view.horizon * height), 0, 1)[:, None, None]
    canvas.image[:] = np.rint(top + (low - top) * share)
    cloud = _shade(_vary(random, SKIES[dusk][1], 6), 1)
    for _ in range(3):
        centre, radius = (random.uniform(0, 1), random.uniform(0.03, 0.25)), random.uniform(0.015, 0.04)
        for offset in (-1.5, 0.0, 1.6):
            puff = (centre[0] + offset * radius, centre[1] + 0.3 * radius * abs(offset))
            canvas.ellipse(puff, radius * (1.2 - 0.3 * abs(offset)), cloud, None, wide=2.0)
    # Woods on the horizon, in two layers.
    for layer, lift in enumerate((0.07, 0.04)):
        heights = view.horizon - lift * random.uniform(0.4, 1.3, 9)
        ridge = zip(np.linspace(0, 1, 9).tolist(), heights.tolist(), strict=True)
        colour = _vary(random, (108 - 20 * layer, 134 - 14 * layer, 112 - 30 * layer))
        canvas.polygons([[*ridge, (1.0, view.horizon + 0.02), (0.0, view.horizon + 0.02)]], colour, TREE)


def _draw_ground(canvas: Canvas, random: np.random.Generator, view: View, bus_lane: tuple[bool, bool]) -> None:
    slabs = _vary(random, (176, 170, 162))
    canvas.polygons([[(0.0, view.horizon), (1.0, view.horizon), (1.0, 1.0), (0.0, 1.0)]], slabs, PAVEMENT)
    for depth in np.geomspace(1, 0.1, 12).tolist():
        canvas.box((0.5, view.horizon + (1 - view.horizon) * depth), 1.0, 0.006 * depth, _shade(slabs, -14), None)
    for side in SIDES:
        asphalt, dash = _vary(random, (104, 105, 110)), _vary(random, (186, 186, 184))
        canvas.polygons([view.strip(side, KERB_X, WAY_X)], _vary(random, KERBS[bus_lane[side]], 8), PAVEMENT)
        canvas.polygons([view.strip(side, WAY_X, MEDIAN_X)], asphalt, BUS_LANE if bus_lane[side] else ROAD)
        canvas.polygons([view.strip(side, MEDIAN_X - 0.015, MEDIAN_X)], _vary(random, (150, 148, 146)), PAVEMENT)
        start = random.uniform(0.8, 1)
        dashes = [view.strip(side, 0.255, 0.275, start * 0.62**k, start * 0.62**k * 1.25) for k in range(5)]
        canvas.polygons(dashes, dash, None)


def _draw_building(
    canvas: Canvas, random: np.random.Generator, view: View, side: int, span: tuple[float, float], *, shop: bool
) -> None:
    """A wall along the street over `span` of the width (mirrored on the right): storeys, ground floor, roof."""
    storeys, tall = int(random.integers(2, 5)), random.uniform(1.05, 1.25)
    wall, front = _vary(random, WALLS[random.integers(len(WALLS))]), _vary(random, (150, 134, 118))
    doors, lit = random.permutation(3), _vary(random, (214, 196, 150))
    roof = _vary(random, ROOFS[shop], 8)

    def corner(u: float, v: float) -> Point:
        """Of shares of the wall's width, and of its height from the roof (0) to the pavement (1)."""
        x = span[0] + (span[1] - span[0]) * u
        depth = (1 - view.horizon) * (0.5 - x) / (0.5 - WALL_X)
        foot, ridge = view.horizon + depth, max(0.075, view.horizon - tall * depth)
        return x if side == 0 else 1 - x, ridge + (foot - ridge) * v

    def quad(left: float, right: float, top: float, bottom: float) -> list[Point]:
        return [corner(left, top), corner(right, top), corner(right, bottom), corner(left, bottom)]

    canvas.polygons([quad(0.0, 1.0, 0.0, 0.66)], wall, BUILDING)
    canvas.polygons([quad(0.0, 1.0, 0.66, 1.0)], front, SHOP if shop else HOUSE)
    canvas.polygons([quad(-0.02, 1.02, -0.14, 0.02)], roof, BUILDING)
    rows = np.linspace(0.1, 0.66, storeys + 1).tolist()
    panes = [quad(x, x + 0.18, y, y + 0.36 / storeys) for y in rows[:-1] for x in (0.12, 0.41, 0.7)]
    canvas.polygons(panes, GLASS, None)
    canvas.polygons([quad(0.0, 1.0, 0.66, 0.69)], _shade(front, -30), None)
    for slot, what in enumerate(doors.tolist()):
        x = 0.08 + 0.3 * slot
        canvas.polygons([quad(x, x + 0.22, 0.76, 0.99 if what == 0 else 0.9)], METAL if what == 0 else lit, None)


def _draw_trees(canvas: Canvas, random: np.random.Generator, view: View) -> None:
    """An avenue: some on the pavements beside the kerb, one on the median far away."""
    for side, bottom, low, high in ((0, KERB_X, 0.2, 0.34), (1, KERB_X, 0.2, 0.34), (0, 0.5, 0.12, 0.16)):
        near, present = random.uniform(low, high), random.random() < 0.75
        size, leaf = near * random.uniform(0.24, 0.34), LEAVES[random.integers(len(LEAVES))]
        puffs = random.uniform(-1, 1, (5, 2)) * (0.6 * size * canvas.upright, 0.5 * size)
        if not present:
            continue
        x, y = view.point(side, bottom, near)
        canvas.box((x, y), 0.3 * size * canvas.upright, 2.2 * size, (98, 78, 60), TREE)
        for number, (right, down) in enumerate(puffs.tolist()):
            canvas.ellipse((x + right, y - 2.8 * size + down), 0.8 * size, _shade(leaf, 8 * number - 16), TREE)


def _draw_signal(canvas: Canvas, random: np.random.Generator, view: View, side: int, *, go: bool) -> None:
    """Beside the kerb, for the people across the street; and a lamp post nearer to the horizon."""
    x, y = view.point(side, KERB_X - 0.01, random.uniform(0.28, 0.33))
    canvas.box((x, y), 0.016 * canvas.upright, 0.42, METAL, POLE)
    canvas.ellipse((x, y - 0.42), 0.022, (236, 230, 206), POLE, wide=1.3)
    x, y = view.point(side, KERB_X - 0.03, random.uniform(0.45, 0.68))
    face, width = _vary(random, SIGNALS[go], 8), canvas.upright
    canvas.box((x, y), 0.06 * width, 0.1, METAL, POLE)
    canvas.box((x, y - 0.02), 0.13 * width, 0.3, (30, 32, 36), POLE)
    canvas.box((x, y - 0.035), 0.1 * width, 0.27, face, POLE)


def _draw_people(canvas: Canvas, random: np.random.Generator, view: View, side: int, label: int) -> None:
    for near in sorted(random.uniform(0.5, 0.85, random.integers(2, 5)).tolist()):
        kerb, y = view.point(side, KERB_X - 0.1, near)
        share, height = random.uniform(0.15, 0.95), 0.16 + 0.14 * near
        x = kerb * share if side == 0 else 1 - (1 - kerb) * share
        coat, trousers = (_vary(random, COATS[number]) for number in random.integers(len(COATS), size=2))
        skin, stride = _vary(random, (206, 160, 132)), random.uniform(0.06, 0.14) * height
        width = height * canvas.upright
        for foot in (-stride, stride):
            canvas.box((x + foot * canvas.upright, y), 0.13 * width, 0.5 * height, trousers, label)
        canvas.box((x, y - 0.42 * height), 0.34 * width, 0.36 * height, coat, label)
        canvas.ellipse((x, y - 0.64 * height), 0.19 * height, coat, label)
        canvas.ellipse((x, y - 0.89 * height), 0.1 * height, skin, label)


def _draw_cars(canvas: Canvas, random: np.random.Generator, view: View, side: int, label: int) -> None:
    for low, high in ((0.3, 0.45), (0.62, 0.95)):
        near, present = random.uniform(low, high), random.random() < 0.7
        x, y = view.point(side, random.uniform(0.22, 0.31), near)
        paint = _vary(random, PAINTS[random.integers(len(PAINTS))])
        if not present:
            continue
        width, height = 0.22 * near, 0.2 * near
        canvas.ellipse((x, y), 0.025 * near, (70, 71, 75), None, wide=0.12 / 0.025 / canvas.upright)
        for wheel in (-0.36, 0.36):
            canvas.box((x + wheel * width, y), 0.16 * width, 0.2 * height, (34, 34, 36), label)
        bottom, waist, top = y - 0.1 * height, y - 0.6 * height, y - height
        body = [(x + u * width, v) for u, v in ((-0.5, bottom), (0.5, bottom), (0.48, waist), (-0.48, waist))]
        cabin = [(x + u * width, v) for u, v in ((-0.44, waist), (0.44, waist), (0.34, top), (-0.34, top))]
        pane = [(x + u * width, v + 0.04 * height) for u, v in ((-0.37, waist), (0.37, waist), (0.3, top), (-0.3, top))]
        canvas.polygons([body, cabin], paint, label)
        canvas.polygons([pane], GLASS, None)
        for lamp in (-0.38, 0.38):
            canvas.box((x + lamp * width, y - 0.36 * height), 0.14 * width, 0.12 * height, (238, 226, 180), None)


def _develop(
    canvas: Canvas, random: np.random.Generator, noise: float
) -> tuple[UInt8[np.ndarray, 'H W 3'], UInt8[np.ndarray, 'H W']]:
    """Half size with smooth edges and a rim of ignored pixels between classes; texture and light of the day."""
    height, width = (side // 2 for side in canvas.label.shape)
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    parts = canvas.label.reshape(height, 2, width, 2)
    inside = (parts == parts[:, :1, :, :1]).all(axis=(1, 3))
    label = canvas.label[::2, ::2]
    grain = random.standard_normal((height, width), np.float32) * ROUGHNESS[label] * noise
    clouds = cv2.resize(random.standard_normal((5, 7), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    light = random.uniform(0.8, 1.12) * random.uniform(0.96, 1.04, 3)
    image = (image + grain[..., None]) * (1 + 0.04 * clouds[..., None]) * light.astype(np.float32)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8), np.where(inside, label, np.uint8(IGNORE_LABEL))


def _shade(colour: Colour, change: int) -> Colour:
    red, green, blue = colour
    return red + change, green + change, blue + change


def _vary(random: np.random.Generator, colour: Colour, amount: int = 12) -> Colour:
    """Each channel up to `amount` gray levels off."""
    red, green, blue = np.clip(colour + random.integers(-amount, amount + 1, 3), 0, 255).tolist()
    return red, green, blue
