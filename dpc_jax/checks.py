"""Values of a config that several rooms refuse in the same words."""

from collections.abc import Iterable
from typing import Any

from dpc_jax.base import InputError, Size


def at_least(minimum: int, **named: Any) -> None:
    """InputError unless each value is at least `minimum`; `name__of__field` is shown as `name.of.field`."""
    for name, value in named.items():
        if not value >= minimum:  # also for NaN
            raise InputError(f'{name.replace("__", ".")} is {value}; it must be at least {minimum}')


def fields_at_least(minimum: int, settings: Any, names: Iterable[str], prefix: str) -> None:
    """`at_least` for attributes of `settings`, which are called `prefix.name`."""
    at_least(minimum, **{f'{prefix}.{name}': getattr(settings, name) for name in names})


def normalised_together(**named: Any) -> None:
    """InputError unless each value, so many images that are normalised together, is at least 2; names as `at_least`.

    Of one image a batch norm that follows a global pooling has one value per channel, whatever cell is trained.
    """
    for name, value in named.items():
        if not value >= 2:
            raise InputError(
                f'{name.replace("__", ".")} is {value}; it must be at least 2: of a single image a batch norm after a'
                ' global pooling has one value per channel, which it makes 0'
            )


def below_one(name: str, value: Any) -> None:
    """InputError unless the value is at least 0 and below 1: a decay, a rate of dropout, momentum."""
    if not 0 <= value < 1:
        raise InputError(f'{name} is {value}; it must be at least 0 and below 1')


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """InputError unless the value is one of those allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(f"{name} is '{value}'; allowed: {', '.join(map(str, allowed))}")


def pair(value: Any, name: str) -> Size:
    """(height, width) of a field; InputError unless it is two integers."""
    sides = tuple(value)
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise InputError(f'{name} is {sides}; it must be (height, width), two integers')
    return sides[0], sides[1]
