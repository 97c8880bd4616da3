"""What `dataset.json` and the config say of a folder of images and labels, read and checked."""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL, InputError

FILE = 'dataset.json'  # in the root
SPLIT = '{split}'  # in a folder's name: what the split has for it
INDEX, ID, COLOUR = 'index', 'id', 'colour'
LABEL_KINDS = (INDEX, ID, COLOUR)
OTHERS = 'others'  # in `unknown`: every value that is of no class
OVERLAPS = ('refuse', 'allow')
LARGEST_ID = 2**16 - 1
HELP = 'experiments/propose_dataset.py --root=FOLDER proposes a dataset.json'

Colour = tuple[int, int, int]
"""RGB, 0..255."""


@dataclasses.dataclass(frozen=True)
class Description:
    """The fields of a `dataset.json`; the docstring of the package says what each means."""

    classes: tuple[str, ...]
    images: str = ''
    labels: str = ''
    image_suffix: str = ''
    label_suffix: str = ''
    splits: tuple[tuple[str, str | float], ...] = ()  # (split, folder or list file or share)
    split_seed: int = 0
    colours: tuple[Colour, ...] = ()
    label_kind: str = INDEX
    ids: tuple[tuple[int, ...], ...] = ()  # of each class
    unknown: tuple[int | str | Colour, ...] = ()
    reduce_zero_label: bool = False
    overlap: str = 'refuse'
    published: tuple[tuple[str, int], ...] = ()

    @property
    def values(self) -> tuple[tuple[int, ...], ...]:
        """Of each class, the values in label files that stand for it; not where labels are colours."""
        first = int(self.reduce_zero_label)
        return self.ids or tuple((index + first,) for index in range(len(self.classes)))

    @property
    def unknown_values(self) -> tuple[int | str | Colour, ...]:
        """What becomes the ignore label."""
        return (0, *self.unknown) if self.reduce_zero_label else self.unknown

    @property
    def export_ids(self) -> tuple[int, ...] | None:
        """The value of each class where predictions are exported; None if it is the index."""
        if self.label_kind == COLOUR or not (self.ids or self.reduce_zero_label):
            return None
        return tuple(values[0] for values in self.values)

    @property
    def meaning(self) -> str:
        """A text that is equal where equal label files have equal classes."""
        held = self.colours if self.label_kind == COLOUR else self.values
        return repr((self.label_kind == COLOUR, held, sorted(map(repr, self.unknown_values))))

    def to_json(self) -> str:
        """The content of a `dataset.json`, a line for each field that is not as it is by default."""
        fields = [field for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        held = {field.name: getattr(self, field.name) for field in fields}
        for name in ('splits', 'published'):
            if name in held:
                held[name] = dict(held[name])
        if self.ids:
            held['ids'] = [values[0] if len(values) == 1 else values for values in self.ids]
        lines = ',\n'.join(f'  {json.dumps(name)}: {json.dumps(value)}' for name, value in held.items())
        return f'{{\n{lines}\n}}\n'


EXAMPLE: Mapping[str, Any] = {
    'classes': ('background', 'leaf', 'flower', 'stone'),
    **{'images': 'photos/{split}', 'labels': 'masks/{split}', 'label_suffix': '_mask.png'},
    **{'splits': {'train': 'train', 'val': 'val'}, 'unknown': (255,)},
}
"""What is drawn where a config has neither root nor classes."""

FIELDS = tuple(field.name for field in dataclasses.fields(Description))


def read(config: ml_collections.ConfigDict) -> Description:
    """The fields of `dataset.json` in `config.root`, if it is there, and those that the config sets in their place.

    InputError names the field and what it may be.
    """
    root = config.get('root', None) or ''
    file = pathlib.Path(root).expanduser() / FILE if root else None
    there: Mapping[str, Any] = _read_file(file) if file is not None and file.is_file() else {}
    if not root and config.get('generated', 0) and _is_unset(config.get('classes', None)):
        there = EXAMPLE
    fields: dict[str, Any] = {}
    for name in FIELDS:
        value, place = there.get(name), f'{file}: {name}'
        if not _is_unset(held := config.get(name, None)):
            value, place = held.to_dict() if isinstance(held, ml_collections.ConfigDict) else held, f'dataset.{name}'
        if value is not None:
            fields[name] = READERS[name](value, place)
    if not fields.get('classes'):
        path = datasets.open_root(root, 'folders')
        raise InputError(f'there are no class names: neither {path / FILE} nor dataset.classes has any; {HELP}')
    made = Description(**fields)
    check(made)
    return made


def _is_unset(value: Any) -> bool:
    if isinstance(value, ml_collections.ConfigDict):
        return not len(value)
    return value is None or value in ('', ()) or value == []


def _read_file(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from None
    if not isinstance(content, dict):
        raise InputError(f'{path} is not an object of JSON, {{...}} with the fields {", ".join(FIELDS)}')
    for name in content:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            said = f"; did you mean '{near[0]}'?" if near else f'; there are: {", ".join(FIELDS)}'
            raise InputError(f"{path} has a field '{name}', which is not known{said}")
    return content


# ---- each field by itself -------------------------------------------------------------------------------------------


def _wrong(place: str, value: Any, wanted: str) -> InputError:
    return InputError(f'{place} is {value!r}; it must be {wanted}')


def _a(kind: type, wanted: str) -> Callable[[Any, str], Any]:
    def read_one(value: Any, place: str) -> Any:
        if type(value) is not kind:
            raise _wrong(place, value, wanted)
        return value

    return read_one


def _folder(value: Any, place: str) -> str:
    text = str(_a(str, 'a folder, from the root')(value, place))
    if pathlib.PurePosixPath(text).is_absolute() or '..' in pathlib.PurePosixPath(text).parts:
        raise _wrong(place, value, 'a folder within the root')
    return text


def _list(value: Any, place: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _wrong(place, value, 'a list')
    return value


def _classes(value: Any, place: str) -> tuple[str, ...]:
    names = tuple(_list(value, place))
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f'{place} has {name!r}; a class must have a name')
    if len(names) > IGNORE_LABEL:
        raise InputError(f'{place} has {len(names)} classes; there may be {IGNORE_LABEL}, 255 is the ignore label')
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{place} has '{twice}' twice")
    return names


def _colours(value: Any, place: str) -> tuple[Colour, ...]:
    return tuple(_colour(colour, place) for colour in _list(value, place))


def _colour(value: Any, place: str) -> Colour:
    rgb = tuple(value) if isinstance(value, list | tuple) else ()
    if len(rgb) != 3 or any(type(side) is not int or not 0 <= side <= 255 for side in rgb):
        raise InputError(f'{place} has {value!r}; a colour is [red, green, blue], each 0..255')
    return rgb


def _id(value: Any, place: str) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_ID:
        raise InputError(f'{place} has {value!r}; a value in a label file is 0..{LARGEST_ID}')
    return value


def _ids(value: Any, place: str) -> tuple[tuple[int, ...], ...]:
    listed = (values if isinstance(values, list | tuple) else (values,) for values in _list(value, place))
    found = tuple(tuple(_id(each, place) for each in values) for values in listed)
    if not all(found):
        raise InputError(f'{place} has a class without an id')
    return found


def _unknown(value: Any, place: str) -> tuple[int | str | Colour, ...]:
    def one(item: Any) -> int | str | Colour:
        if item == OTHERS:
            return OTHERS
        return _colour(item, place) if isinstance(item, list | tuple) else _id(item, place)

    return tuple(one(item) for item in _list(value, place))


def _splits(value: Any, place: str) -> tuple[tuple[str, str | float], ...]:
    if not isinstance(value, dict):
        raise _wrong(place, value, 'an object of JSON, such as {"train": "train.txt", "val": "val.txt"}')
    for split, source in value.items():
        if type(source) not in (str, float, int) or source == '':
            raise InputError(
                f'{place}.{split} is {source!r}; it must be a folder, a list file or a share of the images'
            )
        if not isinstance(source, str) and not 0 < source < 1:
            raise InputError(f'{place}.{split} is {source}; a share of the images is above 0 and below 1')
    return tuple(value.items())


def _published(value: Any, place: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict) or any(type(count) is not int for count in value.values()):
        raise _wrong(place, value, 'the number of images by split')
    return tuple(value.items())


READERS: Mapping[str, Callable[[Any, str], Any]] = {
    'classes': _classes,
    'images': _folder,
    'labels': _folder,
    'image_suffix': _a(str, 'a text such as .jpg'),
    'label_suffix': _a(str, 'a text such as .png'),
    'splits': _splits,
    'split_seed': _a(int, 'a whole number'),
    'colours': _colours,
    'label_kind': _a(str, f'one of {", ".join(LABEL_KINDS)}'),
    'ids': _ids,
    'unknown': _unknown,
    'reduce_zero_label': _a(bool, 'true or false'),
    'overlap': _a(str, f'one of {", ".join(OVERLAPS)}'),
    'published': _published,
}


# ---- the fields together --------------------------------------------------------------------------------------------


def check(made: Description) -> None:
    """InputError unless the fields go together."""
    count = len(made.classes)
    for name, allowed in (('label_kind', LABEL_KINDS), ('overlap', OVERLAPS)):
        if getattr(made, name) not in allowed:
            raise InputError(f"dataset.{name} is '{getattr(made, name)}'; allowed: {', '.join(allowed)}")
    for name in ('colours', 'ids'):
        held = getattr(made, name)
        if held and len(held) != count:
            raise InputError(f'dataset.{name} has {len(held)} entries for {count} classes; each class has one')
    if bool(made.ids) != (made.label_kind == ID):
        raise InputError("dataset.ids, the values of each class, belong to label_kind 'id', which needs them")
    if made.label_kind == COLOUR and not made.colours:
        raise InputError("label_kind is 'colour', which needs dataset.colours, the colour of each class")
    if made.reduce_zero_label and made.label_kind != INDEX:
        raise InputError(f"reduce_zero_label belongs to label_kind 'index'; here it is '{made.label_kind}'")
    _check_values(made)
    _check_splits(made)


def _check_values(made: Description) -> None:
    kind, wrong = (tuple, 'a value') if made.label_kind == COLOUR else (int, 'a colour')
    for item in made.unknown:
        if item != OTHERS and not isinstance(item, kind):
            raise InputError(f"dataset.unknown has {item!r}, {wrong}, but label_kind is '{made.label_kind}'")
    owners: dict[Any, str] = {}
    listed = ((colour,) for colour in made.colours) if made.label_kind == COLOUR else made.values
    for name, values in zip(made.classes, listed, strict=True):
        for value in values:
            if value in owners:
                raise InputError(f"{value} stands for '{owners[value]}' and for '{name}'; it can be one class only")
            owners[value] = name
    for value in made.unknown_values:
        if value in owners:
            raise InputError(f"{value} stands for '{owners[value]}' and is in dataset.unknown, too")


def _check_splits(made: Description) -> None:
    if not made.splits:
        raise InputError(
            'dataset.splits is empty; it says which images are train and which val, {"train": "train.txt", ...}'
        )
    shares = [source for _, source in made.splits if not isinstance(source, str)]
    if shares and len(shares) < len(made.splits):
        raise InputError('dataset.splits has shares and names; all are shares of the images, or none is')
    if sum(shares) > 1 + 1e-9:
        raise InputError(f'dataset.splits has shares of {sum(shares):g} together; they must not exceed 1')
    if SPLIT in made.labels and SPLIT not in made.images:
        raise InputError(f"dataset.labels is '{made.labels}' and dataset.images '{made.images}' has no {SPLIT}")
    if shares and SPLIT in made.images:
        raise InputError(f'dataset.splits has shares, and dataset.images has {SPLIT}, which stands for a folder')
