"""What a checkpoint says of its network: enough to build it, to name its classes, and to refuse another one.

Networks of other atrous rates, or of another cell, may have weights of the same names and shapes, so that shapes alone
let wrong numbers through in silence. `network.json` lies among the files of a checkpoint, under its checksums.
"""

import json
import logging
import pathlib
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import ml_collections

from dpc_jax import contexts, datasets, preprocess, provenance, tasks, weights
from dpc_jax.base import InputError
from dpc_jax.datasets import Dataset, Facts, Skeleton
from dpc_jax.files import local
from dpc_jax.task import Task

FILE = 'network.json'
FORMAT = 1
BACKBONE = ('name', 'width', 'output_stride')
DECODER = ('output_stride', 'low_level_filters', 'filters')

FREE = (
    *('backbone.output_stride', 'context.dropout_rate'),
    *('context.auxiliary', 'context.auxiliary_inner', 'context.auxiliary_weight'),  # take part in training alone
)
"""Fields in which a network may differ from its checkpoint. Atrous rates follow the output stride by themselves."""

WHERE = ('name', 'root', 'generated')
"""Fields of the config of a data set that say which it is and where it lies."""

Sections = dict[str, dict[str, Any]]
"""Backbone, context and decoder, with the fields of a config by which `networks.make` builds them."""


class Description(NamedTuple):
    """What `network.json` holds."""

    network: Sections
    dataset: str  # its name
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB colour of each class, 0..255
    export_ids: tuple[int, ...] | None  # value of each class in exported labels; None: its index
    fields: Mapping[str, Any] = MappingProxyType({})  # of the config of the data set, but where it lies
    label_map: str = ''  # what values in its label files stand for, where neither its name nor the fields say it
    task: Mapping[str, Any] = MappingProxyType(dict(tasks.DEFAULT))  # the fields of `config.task`
    targets: tuple[str, ...] = ('label',)  # what its examples have beside images
    skeleton: Skeleton | None = None

    @property
    def facts(self) -> Facts:
        """What a task must know of the data set."""
        return Facts(self.dataset, self.classes, self.palette, self.export_ids, self.targets, self.skeleton)


# ---- written --------------------------------------------------------------------------------------------------------


def of(config: ml_collections.ConfigDict) -> Description:
    """The description of the network that a config of a whole network names, for the classes of its data set."""
    kind = datasets.kind(config.dataset)
    facts, task = datasets.facts_of(kind), tasks.make(config)
    fields = json.loads(config.dataset.to_json_best_effort())
    fields = {name: value for name, value in fields.items() if name not in WHERE}
    return Description(
        *(sections(config), config.dataset.name, facts.classes, facts.palette, facts.export_ids),
        *(fields, kind.meaning, with_crop(task, config).fields(), facts.targets, facts.skeleton),
    )


def with_crop(task: Task, config: ml_collections.ConfigDict) -> Task:
    """The task with the size of the crops on which the config evaluates it, if it sees crops."""
    if not task.of_crops:
        return task
    height, width = config.evaluate.crop_size
    return tasks.of({**task.fields(), 'size': (height, width)}, task.facts)


def sections(config: ml_collections.ConfigDict) -> Sections:
    """The fields that say which network it is; of a genotype not its name but itself."""
    backbone = {field: config.backbone[field] for field in BACKBONE}
    decoder = {field: config.decoder[field] for field in (DECODER if config.decoder.output_stride else DECODER[:1])}
    return {'backbone': backbone, 'context': contexts.described(config), 'decoder': decoder}


def files(description: Description) -> dict[str, str]:
    """Name -> text of what `weights.save` puts beside the weights."""
    content = {
        'format': FORMAT,
        **{**description._asdict(), 'fields': dict(description.fields), 'task': dict(description.task)},
        'skeleton': None if description.skeleton is None else description.skeleton._asdict(),
        'channels': [
            {'name': name, 'colour': colour}
            for name, colour in zip(task_of(description).names, task_of(description).palette.tolist(), strict=True)
        ],
        'images': {'channels': 'RGB', 'range': [0, 255], 'padding': preprocess.MEAN_PIXEL},
        'made_by': {'commit': provenance.commit(), 'jax': jax.__version__},
    }
    return {FILE: json.dumps(content, indent=2, ensure_ascii=False) + '\n'}


# ---- read -----------------------------------------------------------------------------------------------------------


def read(folder: pathlib.Path) -> Description | None:
    """What a checkpoint says; None where it says nothing (an older one, one of another kind, none at all).

    InputError: the file cannot be read, or a later version of this project wrote it.
    """
    path = local(folder, 'checkpoint') / FILE
    try:
        held = json.loads(path.read_text(encoding='utf-8'))
        if held['format'] > FORMAT:
            raise InputError(f'{path}: format {held["format"]}, which a later version wrote; this one knows {FORMAT}')
        ids = held['export_ids']
        return Description(
            {name: dict(held['network'][name]) for name in ('backbone', 'context', 'decoder')},
            held['dataset'],
            tuple(held['classes']),
            tuple((red, green, blue) for red, green, blue in held['palette']),
            None if ids is None else tuple(ids),
            held.get('fields', {}),
            held.get('label_map', ''),
            {name: _as_config(value) for name, value in held.get('task', tasks.DEFAULT).items()},
            tuple(held.get('targets', ('label',))),
            _read_skeleton(held.get('skeleton')),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path} cannot be read: {type(error).__name__} {error}') from error


def _read_skeleton(held: Mapping[str, Any] | None) -> Skeleton | None:
    return None if held is None else Skeleton(**{name: _as_config(value) for name, value in held.items()})


def task_of(description: Description) -> Task:
    """The task of the network; InputError where a later version wrote one that is not known here."""
    return tasks.of(description.task, description.facts)


def settled(
    config: ml_collections.ConfigDict, folder: pathlib.Path, *, with_data: bool = True
) -> ml_collections.ConfigDict:
    """A copy of the config in which fields that it leaves open (None) are those of the checkpoint in that folder.

    `with_data`: whether it goes with the data set that the config names, which then must have the same classes.
    A warning says so where an older checkpoint has no description. Where the output stride is another one, it is said.

    Raises:
      InputError: the config says another network, or other classes; or it leaves open what the checkpoint does not say.
    """
    config = config.copy_and_resolve_references()
    held = read(folder)
    if held is not None:
        with config.unlocked(), config.ignore_type():
            _fill(config, held)
    left = next(_open_fields(config), None)
    if left is not None:
        check_place(folder)
        raise InputError(
            f"{left} is not given, and checkpoint '{folder}' does not say which network it is of: give the config that"
            ' it was trained with'
        )
    check(config, folder, datasets.kind(config.dataset) if with_data else None)
    return config


def check(config: ml_collections.ConfigDict, folder: pathlib.Path, data: type[Dataset] | Dataset | None) -> None:
    """InputError if the checkpoint in that folder is of another network than the config's, or of other classes.

    `data` is what it goes with; None where it goes with images alone, so that no classes are compared.
    """
    held = read(folder)
    if held is None:
        warn(folder)
        return
    _check_network(held, sections(config), folder, only=('backbone', 'context', 'decoder'))
    _check_task(held, tasks.fields_of(config), folder)
    if data is not None:
        _check_classes(held, data.classes, folder)
        if held.dataset == data.name and held.label_map != data.meaning:
            print(f"warning: values in label files stand for classes in another way than in the training of '{folder}'")
    there, here = held.network['backbone']['output_stride'], config.backbone.output_stride
    if there != here:
        print(f'output stride {here}; the checkpoint was trained at {there}, atrous rates follow')


def check_start(config: ml_collections.ConfigDict, folder: pathlib.Path, parts: str) -> None:
    """InputError if a training that loads `parts` of the weights in that folder would take them for something else.

    Of a context of another kind nothing is loaded, since its variables have other names, so it is no fault.
    """
    held = read(folder)
    if held is None:
        return
    only = ['backbone']
    if parts != 'backbone' and len(task_of(held).names) == tasks.make(config).channels:
        try:
            _check_task(held, tasks.fields_of(config), folder)
        except InputError as error:  # of another number of channels the last layer is drawn anew
            raise InputError(f"{error}; train.init.parts 'backbone' takes what both have") from error
    if parts != 'backbone':
        only += ['decoder', *['context'] * (held.network['context']['name'] == config.context.name)]
    try:
        _check_network(held, sections(config), folder, only=only)
    except InputError as error:
        advice = '' if parts == 'backbone' else "; train.init.parts 'backbone' takes what both have"
        raise InputError(f'{error}{advice}') from error


def warn(folder: pathlib.Path) -> None:
    """Says that a checkpoint has no description, so that another network of the same shapes would not be noticed."""
    if not local(folder, 'checkpoint').is_dir():  # whoever reads the weights says so
        return
    logging.warning("checkpoint '%s' does not say which network it is of, and is taken for the config's", folder)


def check_place(folder: pathlib.Path) -> None:
    """InputError where no checkpoint of weights is; it names one that is below."""
    place = weights.checkpoint_at(folder, 'checkpoint')
    if not (place / weights.SUMS).is_file():
        below = [name for name in ('weights', 'best') if (place / name / weights.SUMS).is_file()]
        hint = f"; did you mean '{place / below[0]}'?" if below else ''
        raise InputError(f"checkpoint '{folder}' holds no weights of this project{hint}")


def _fill(config: ml_collections.ConfigDict, held: Description) -> None:
    for section, fields in held.network.items():
        for field, value in fields.items():
            if config[section].get(field) is None:
                config[section][field] = _as_config(value)
    if config.get('task', None) is None or config.task.get('name') is None:
        config.task = ml_collections.ConfigDict({name: _as_config(value) for name, value in held.task.items()})
    if config.dataset.name is None:
        config.dataset.name = held.dataset
    if config.dataset.name == held.dataset:
        taken = {field: _as_config(value) for field, value in held.fields.items() if field not in config.dataset}
        config.dataset.update(taken)
        if given := [f'{field}={value!r}' for field, value in taken.items() if value]:
            print(f'the data set as in the training of the checkpoint: {", ".join(given)}')


def _as_config(value: Any) -> Any:
    """A value of JSON as configs have it: tuples, also in tuples."""
    return tuple(map(_as_config, value)) if isinstance(value, list) else value


def _open_fields(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Fields without a value; of the data set's, which may have some by themselves, its name alone."""
    for section in ('backbone', 'context', 'decoder'):
        yield from (f'{section}.{field}' for field, value in config[section].items() if value is None)
    if config.dataset.name is None:
        yield 'dataset.name'


def _check_network(held: Description, here: Sections, folder: pathlib.Path, *, only: Collection[str]) -> None:
    flat = [provenance.flat({name: part[name] for name in only}) for part in (held.network, here)]
    found = provenance.differences(flat[0], flat[1], free=FREE)
    for field, there, ours in sorted(found, key=lambda difference: not difference[0].endswith('.name')):
        was, now = (_called(field, text, part) for text, part in ((there, held.network), (ours, here)))
        raise InputError(f"checkpoint '{folder}' is of another network: {field} is {was} there and {now} here")


def _check_task(held: Description, here: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Of the fields of a task those count that say what the outputs mean."""
    for field in ('name', *tasks.MEANINGS):
        there, ours = held.task.get(field), here.get(field)
        if there != ours:
            raise InputError(
                f"checkpoint '{folder}' is of another task: task.{field} is {there!r} there and {ours!r} here"
            )


def _called(field: str, text: str, network: Sections) -> str:
    """The value as it is shown: a genotype by its name if it has one."""
    if field != 'context.genotype' or text == provenance.MISSING:
        return text
    return contexts.genotype_name(network['context']['name'], json.loads(text))


def _check_classes(held: Description, classes: tuple[str, ...], folder: pathlib.Path) -> None:
    if held.classes == classes:
        return
    if len(held.classes) != len(classes):
        raise InputError(
            f"checkpoint '{folder}' is of other classes: it has {len(held.classes)} of {held.dataset}, the data set has"
            f' {len(classes)}'
        )
    index = next(index for index, pair in enumerate(zip(held.classes, classes, strict=True)) if pair[0] != pair[1])
    raise InputError(
        f"checkpoint '{folder}' is of other classes: class {index} is '{held.classes[index]}' there and"
        f" '{classes[index]}' in the data set"
    )


# ---- used -----------------------------------------------------------------------------------------------------------


def config_of(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """What `networks.make` needs of a config, as the checkpoint says it; InputError where it says nothing."""
    held = read(folder)
    if held is None:
        check_place(folder)
        raise InputError(
            f"checkpoint '{folder}' does not say which network it is of: give the config that it was trained with, too"
        )
    empty: dict[str, Any] = {name: {} for name in held.network}
    config = ml_collections.ConfigDict({**empty, 'dataset': {'name': held.dataset}})
    _fill(config, held)
    return config


def found_task(config: ml_collections.ConfigDict, folder: pathlib.Path) -> Task:
    """The task of a checkpoint: what it says of its data set, else that of the config's, with the config's fields."""
    held = read(folder) or of(config)
    return tasks.of({**held.task, **tasks.fields_of(config)}, held.facts)
