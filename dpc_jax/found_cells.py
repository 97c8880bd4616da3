"""Cells that searches of this project found, by name: the JSON files of `configs/cells`, beside those a space knows.

A found cell is named wherever a known one is: `--config.context.genotype=NAME`, `search.references`, `--cells=NAME` and
`near:NAME`. `experiments/winner.py --name=NAME` puts it there. An installed package without the project's folder
`configs` has none.
"""

import pathlib
from collections.abc import Iterable

from dpc_jax import files
from dpc_jax.base import Genotype, InputError
from dpc_jax.spaces import Space

RESERVED = ('named', 'winner')
"""Words that scripts take for something else: all known cells, and the cell that is compared with the references."""

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'configs' / 'cells'


def names() -> tuple[str, ...]:
    """The names of all found cells, of whatever space."""
    paths = (path for path in FOLDER.glob('*.json') if not path.name.startswith('.'))
    return tuple(sorted(path.stem for path in paths if path.stem not in RESERVED))


def text_of(name: str) -> str | None:
    """The file's text, a genotype in its space's format; None if no found cell has that name."""
    return (FOLDER / f'{name}.json').read_text(encoding='utf-8') if name in names() else None


def is_named(space: Space, name: str) -> bool:
    """Whether the space, or a file, has that name."""
    return name in space.names or name in names()


def named(space: Space, name: str) -> Genotype:
    """The cell (unbatched) that the space knows by that name, or the found one.

    Raises:
      InputError: there is none of that name, or it is not of this space (another one, fewer branches).
    """
    text = None if name in space.names else text_of(name)
    if text is not None:
        return space.from_json(text, f"cell '{name}'")
    if name not in space.names:
        raise InputError(f"no cell is named '{name}'; allowed: {', '.join((*space.names, *names()))}")
    return space.named(name)


def read(name: str, field: str, known: Iterable[str]) -> tuple[str, str]:
    """The text of a genotype, and what it is called in messages: of a found cell, of a file, or `name` itself: `[...`.

    InputError, which lists the `known` names and the found ones, if the value of `field` is none of these.
    """
    if (found := text_of(name)) is not None:
        return found, f"cell '{name}'"
    if name.lstrip().startswith('['):
        return name, field
    path = files.local(name, field)
    try:
        return files.text(path.read_bytes()), str(path)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'not a text file'
        allowed = ', '.join((*known, *names()))
        raise InputError(f"{field} '{name}': {why}; it must be a JSON file or one of {allowed}") from error


def check_new(space: Space, name: str, genotype: Genotype) -> None:
    """InputError if the name is no word, one of `RESERVED`, or that of another cell."""
    if not name.replace('-', '_').isidentifier():
        raise InputError(f"a cell cannot be named '{name}'; allowed: letters, digits, - and _, a letter first")
    if name in RESERVED:
        raise InputError(f"a cell cannot be named '{name}'; these words mean something else: {', '.join(RESERVED)}")
    if name in space.names:
        raise InputError(f"the space itself names a cell '{name}'; its names: {', '.join(space.names)}")
    if name in names() and space.canonical_key(named(space, name)) != space.canonical_key(genotype):
        raise InputError(f"another cell is named '{name}'; found cells: {', '.join(names())}")


def keep(space: Space, name: str, genotype: Genotype) -> pathlib.Path:
    """Writes the file of a found cell; returns its path. InputError as `check_new`."""
    check_new(space, name, genotype)
    files.make_folder(FOLDER, 'configs/cells')
    return files.write(FOLDER / f'{name}.json', space.to_json(genotype) + '\n')
