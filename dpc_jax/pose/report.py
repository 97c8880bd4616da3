"""What an evaluation or a prediction of poses says: detections as COCO takes them, one JSON of all images, tables."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpc_jax import label_counts
from dpc_jax.base import InputError
from dpc_jax.datasets import Dataset, Skeleton
from dpc_jax.pose.oks import NAMES, kept_by_similarity

CATEGORY = 1  # COCO's person
FILE = 'keypoints.json'


def announce(dataset: Dataset, skeleton: Skeleton) -> None:
    """Prints how many joints are labelled in a sample of the people of a split, and warns where heads have no size.

    InputError where none is labelled.
    """
    people = []
    for index in label_counts.sample(len(dataset)):
        try:
            people.append(dataset[index].person)
        except InputError:  # whoever reads it says what is wrong
            continue
    if not people:
        return
    labelled = np.mean([person.visible > 0 for person in people], axis=0)
    never = [name for name, share in zip(skeleton.joints, labelled.tolist(), strict=True) if not share]
    if len(never) == len(skeleton.joints):
        if dataset.truth() is not None:  # boxes of a detector have no joints, and are judged by the annotations
            return
        raise InputError(f'no joint of {dataset.split} is labelled: nothing can be learned or judged')
    print(
        f'people of {dataset.split} ({len(people)} of {len(dataset)}): {100 * labelled.mean():.1f} % of the joints'
        ' labelled' + (f'; never: {", ".join(never)}' if never else '')
    )
    if not skeleton.sigmas and not all(person.head > 0 for person in people):
        print(
            f"warning: heads of {dataset.split} have no size (dataset.heads 'joints' measures them by joints);"
            ' people without one take no part in PCKh'
        )


def detections(rows: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> list[dict[str, Any]]:
    """The people that are kept, as COCO's server takes them; of rows with `image`, `found`, `score` and `area`."""
    by_image = defaultdict(list)
    for row in rows:
        by_image[row['image']].append(row)
    kept: list[dict[str, Any]] = []
    for image, people in sorted(by_image.items()):
        joints = np.array([row['found'] for row in people])
        scores, areas = (np.array([row[name] for row in people]) for name in ('score', 'area'))
        order = [*range(len(people))]
        if skeleton.sigmas:
            order = kept_by_similarity(joints, scores, areas, skeleton.sigmas)
        for index in order:
            points = {'keypoints': np.round(joints[index], 3).ravel().tolist(), 'score': round(float(scores[index]), 6)}
            kept.append({'image_id': image, 'category_id': CATEGORY, **points})
    return kept


def coco_json(rows: Sequence[tuple[str, str, Mapping[str, Any]]], skeleton: Skeleton) -> str:
    """Images, people with their joints, and the names of the joints, of `(name, path, summary)` of each image."""
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    for number, (name, path, summary) in enumerate(rows, start=1):
        images.append({'id': number, 'file_name': path, 'name': name})
        for points, score, box in zip(summary['keypoints'], summary['scores'], summary['boxes'], strict=True):
            person = {'id': len(people) + 1, 'image_id': number, 'category_id': CATEGORY}
            people.append({**person, 'keypoints': points, 'score': score, 'bbox': box})
    limbs = [[one + 1, other + 1] for one, other in skeleton.limbs]  # COCO counts joints from 1
    category = {'id': CATEGORY, 'name': 'person', 'keypoints': list(skeleton.joints), 'skeleton': limbs}
    content = {'images': images, 'annotations': people, 'categories': [category]}
    return json.dumps(content, ensure_ascii=True) + '\n'


def headline(row: Mapping[str, Any], skeleton: Skeleton) -> str:
    """The main score and others."""
    if skeleton.sigmas:
        return f'AP {percent(row["ap"])} % (AP50 {percent(row["ap_50"])} %, AR {percent(row["ar"])} %)'
    if math.isnan(row['pckh_0.5']):
        return 'no score: no joints are labelled, or heads have no size'
    return f'PCKh@0.5 {percent(row["pckh_0.5"])} %, PCKh@0.1 {percent(row["pckh_0.1"])} %'


def definition(row: Mapping[str, Any], skeleton: Skeleton) -> str:
    """Which thresholds, or by whom."""
    if skeleton.sigmas:
        return 'By pycocotools, over the people of all boxes; a person with no labelled joint takes no part.'
    return (
        'PCKh as the official evaluation counts it: without pelvis and thorax, joints weighed by how often they are'
        ' labelled. What the release of Simple Baselines prints as Mean@0.1 is at a threshold of 0.11:'
        f' {percent(row["pckh_0.11"])} %.'
    )


def table(row: Mapping[str, Any], skeleton: Skeleton) -> str:
    """PCKh of each joint, or all measures of COCO."""
    if skeleton.sigmas:
        return '\n'.join(['| measure | % |', '|:--|--:|', *(f'| {name} | {percent(row[name])} |' for name in NAMES)])
    lines = (f'| {name} | {percent(share)} |' for name, share in row['joints'].items())
    return '\n'.join(['| joint | PCKh@0.5 % |', '|:--|--:|', *lines])


def percent(share: float) -> str:
    """In %, with a dash for what cannot be said."""
    return '–' if math.isnan(share) else f'{100 * share:.2f}'
