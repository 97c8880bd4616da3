"""The colours and sizes of every picture: those of Okabe and Ito, told apart with any kind of colour vision."""

from typing import Any

BLUE, GREEN, ORANGE, PINK, AMBER = '#0072B2', '#009E73', '#D55E00', '#CC79A7', '#E69F00'
RED, GREY, INK = '#B00020', '#8C8C8C', '#1A1A1A'
EDGE, LIGHT_EDGE, GRID = '#333333', '#A6A6A6', '#E6E6E6'

Pair = tuple[str, str]
"""Outline and a light fill."""

BLUES, GREENS, ORANGES, GREYS = (BLUE, '#CCE3F1'), (GREEN, '#CBEBDF'), (ORANGE, '#FBDFC8'), ('#555555', '#E9E9E9')
PINKS, AMBERS = (PINK, '#F6E1ED'), (AMBER, '#FCEFC9')

PAIRS: dict[str, Pair] = {
    'green': GREENS,
    'blue': BLUES,
    'orange': ORANGES,
    'grey': GREYS,
    'pink': PINKS,
    'amber': AMBERS,
}
"""Colours by the names that spaces give their operators (`spaces.Node.colour`)."""

REFERENCE_STYLES: tuple[tuple[str, Any, str], ...] = (
    (ORANGE, '--', 'D'),
    (GREEN, '-.', 's'),
    (PINK, ':', '^'),
    (AMBER, (0, (5, 1, 1, 1, 1, 1)), 'v'),
)
"""Colour, line and marker of the first reference, the second, and so on; they repeat if there are more."""

NOT_LABELLED = (0, 0, 0)
"""Colour of the ignore label, as in the official pictures of Cityscapes."""

WIDTH_INCHES, PADDING_INCHES = 8.0, 0.08  # of a figure that stands in a report
