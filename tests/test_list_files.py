"""Lists as people have them: each line names the right files, or is refused. On tiny files."""

import pathlib

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets, list_files


def write(path: pathlib.Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(path)


@pytest.fixture
def voc(tmp_path):
    """`voc(line, 'a.jpg', ...)`: what the images hold that a list of this line names; image n holds 10 (n + 1)."""

    def read(line: str | bytes, *names: str) -> tuple[list[int], list[int]]:
        root = tmp_path / 'voc'
        for place, name in enumerate(names):
            write(root / 'JPEGImages' / name, 10 * (place + 1))
            write(root / 'SegmentationClass' / f'{pathlib.PurePath(name).stem}.png', place)
        lines = root / 'ImageSets/Segmentation/train.txt'
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.write_bytes(line if isinstance(line, bytes) else line.encode())
        dataset = datasets.load('pascal_voc', ml_collections.ConfigDict({'root': str(root)}), 'train')
        return [int(x.image[0, 0, 0]) for x in dataset], [int(x.label[0, 0]) for x in dataset]

    return read


def test_an_id_with_a_space_is_its_own_image(voc):
    assert voc('IMG (1)\nIMG (2)\nIMG\n', 'IMG.png', 'IMG (1).png', 'IMG (2).png') == ([20, 30, 10], [1, 2, 0])


def test_an_id_with_a_dot_is_its_own_image(voc):
    assert voc('v1.2\nv1\nv1.png.old', 'v1.png', 'v1.2.png', 'v1.png.old.png') == ([20, 10, 30], [1, 0, 2])


def test_an_id_that_is_not_there_is_not_another_one(voc, fault):
    said = fault(lambda: voc('IMG (1)', 'IMG.png'))
    assert 'train.txt, line 1: there is no image ' in said
    assert said.endswith('JPEGImages/IMG (1).jpg')
    assert fault(lambda: voc('v1.2', 'v1.png')).endswith('JPEGImages/v1.2.jpg')
    assert fault(lambda: voc('IMG 1', 'IMG.png')).endswith('JPEGImages/IMG 1.jpg')
    assert fault(lambda: voc('IMG copy.png', 'IMG.png')).endswith('JPEGImages/IMG copy.jpg')


@pytest.mark.parametrize('name', ['a.jpg', 'a.JPG', 'a.jpeg', 'a.JPEG', 'a.png', 'a.PNG'])
def test_images_may_end_as_cameras_let_them(voc, name):
    (value,), labels = voc('a', name)
    assert abs(value - 10) <= 1  # a JPEG may round
    assert labels == [0]


LINES = [
    'a b',
    'a b.png',
    'JPEGImages/a b.png',
    '/JPEGImages/a b.png /SegmentationClass/a b.png',
    'JPEGImages/a b.png,SegmentationClass/a b.png',
    'JPEGImages/a b.png; SegmentationClass/a b.png',
    'JPEGImages/a b.png\tSegmentationClass/a b.png',
    'JPEGImages\\a b.png SegmentationClass\\a b.png',
    'a b  1',
    'a b -1',
]


@pytest.mark.parametrize('line', LINES)
def test_what_follows_a_name_is_left_out(voc, line):
    """The second of three images, all of whose names begin alike."""
    assert voc(line, 'a.png', 'a b.png', 'b.png') == ([20], [1])


def test_of_two_paths_the_first_is_the_image(voc):
    assert voc('JPEGImages/a.png Masks/b.png', 'a.png', 'b.png') == ([10], [0])


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_text_may_come_from_any_editor(voc, encoding, end):
    assert voc(f'ä{end}b{end}'.encode(encoding), 'ä.png', 'b.png') == ([10, 20], [0, 1])


def camvid(root: pathlib.Path, line: str) -> tuple[int, int]:
    write(root / 'train/a.png', 10)
    write(root / 'annot/a.png', 1)
    write(root / 'train/a b.png', 20)
    write(root / 'annot/a b.png', 255)  # some copies have 255 for unknown
    (root / 'train.txt').write_text(line)
    (example,) = datasets.load('camvid', ml_collections.ConfigDict({'root': str(root)}), 'train')
    return int(example.image[0, 0, 0]), int(example.label[0, 0])


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('train/a.png annot/a.png', (10, 1)),
        ('train/a.png,annot/a.png', (10, 1)),
        ('train\\a.png annot\\a.png', (10, 1)),
        ('/train/a.png /annot/a.png', (10, 1)),
        ('/SegNet/CamVid/train/a.png /SegNet/CamVid/annot/a.png', (10, 1)),
        ('train/a b.png annot/a b.png', (20, 255)),
        ('{root}/train/a b.png\t{root}/annot/a b.png', (20, 255)),
    ],
)
def test_pairs_are_parted_where_both_files_are(tmp_path, line, expected):
    assert camvid(tmp_path, line.format(root=tmp_path)) == expected


def test_a_pair_that_is_not_there(tmp_path, fault):
    said = fault(lambda: camvid(tmp_path, 'train/c.png annot/a.png'))
    assert said == f'{tmp_path / "train.txt"}, line 1: there is no image {tmp_path / "train/c.png"}'
    said = fault(lambda: camvid(tmp_path, 'train/c d.png annot/a.png'))
    assert said.endswith("line 1: 'train/c d.png annot/a.png' is not an image path and a label path")


def test_frames_of_cityscapes_in_large_letters_and_without_what_macos_adds(tmp_path):
    for name in ('a_000000_000001', 'a_000000_000002'):
        write(tmp_path / f'leftImg8bit/train/a/{name}_leftImg8bit.PNG', 5)
        write(tmp_path / f'gtFine/train/a/{name}_gtFine_labelIds.PNG', 7)
        (tmp_path / f'leftImg8bit/train/a/._{name}_leftImg8bit.png').write_bytes(b'\0\5\x16\7')
    dataset = datasets.load('cityscapes', ml_collections.ConfigDict({'root': str(tmp_path)}), 'train')
    assert [int(example.label[0, 0]) for example in dataset] == [0, 0]  # id 7 is road, the first class


def test_names_that_are_no_utf8_have_a_fingerprint(tmp_path):
    name = b'caf\xe9.png'.decode('utf-8', 'surrogateescape')
    write(tmp_path / name, 1)
    assert datasets.content_of(tmp_path / name).startswith(b'caf\xe9.png\0')


def test_all_ways_to_part_a_line():
    assert list_files.halves('a b,c') == [('a', 'b,c'), ('a b', 'c')]
    assert list_files.split('a;b, c\td') == ['a', 'b', 'c', 'd']


def test_a_path_may_begin_with_the_folder_itself(tmp_path):
    (tmp_path / 'list.txt').write_text('./a.jpg ./b/a.png\n././c.jpg\nd./e.jpg\n')
    lines = [line for _, line in list_files.read_lines(tmp_path / 'list.txt', 'a path')]
    assert lines == ['a.jpg b/a.png', 'c.jpg', 'd./e.jpg']
