"""Files of weights that are not read here: what each of them is, so that a message can say it."""

import os
import pathlib
import re
import zipfile

from dpc_jax import files
from dpc_jax.base import InputError

STATE_FILE = 'checkpoint'  # which TensorFlow keeps beside its checkpoints and which names the latest

WANTED = (
    'wanted: a checkpoint of TensorFlow (NAME, of which NAME.index is one file, its folder or a tarball of it), an'
    ' .npz, or a folder that this project wrote'
)

ENDINGS = {
    '.meta': 'the graph of a checkpoint of TensorFlow, without its values',
    '.pb': 'a graph of TensorFlow, frozen or of a SavedModel',
    '.pbtxt': 'a graph of TensorFlow as text',
    '.h5': 'a file of Keras (HDF5)',
    '.hdf5': 'a file of Keras (HDF5)',
    '.keras': 'a file of Keras',
    '.pth': 'a file of PyTorch',
    '.pt': 'a file of PyTorch',
    '.safetensors': 'a file of safetensors',
    '.onnx': 'an ONNX model',
    '.tflite': 'a TensorFlow Lite model',
    '.msgpack': 'a file of Flax (msgpack)',
    '.pkl': 'a pickle of Python, which may run any program when it is read',
    '.npy': 'a single array of NumPy',
}
HDF5 = b'\x89HDF\r\n\x1a\n'
OF_FILE_MANAGERS = ('thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r')
"""What Windows and macOS leave in folders, in small letters; names that begin with a dot are theirs, too."""


def refuse(path: pathlib.Path) -> None:
    """InputError, which says what the file is and what is wanted, where it is one of another kind."""
    kind = kind_of(path)
    if not kind:
        return
    prefix = path.name.removesuffix('.meta')
    give = f"give '{path.with_name(prefix)}'" if prefix != path.name else WANTED
    raise InputError(f"weights file '{path}' is {kind}; {give}")


def kind_of(path: pathlib.Path) -> str:
    """What a file is that is not read here; '' where it may be read, or is none."""
    if not path.is_file():
        return ''
    if path.name == STATE_FILE:
        return 'the note of TensorFlow that says which checkpoint of its folder is the latest'
    ending = re.sub(r'\.tar$', '', path.name, flags=re.IGNORECASE)  # PyTorch's model.pth.tar is no tarball
    if found := ENDINGS.get(os.path.splitext(ending)[1].lower()):
        return found
    try:
        with path.open('rb') as file:
            if file.read(len(HDF5)) == HDF5:
                return ENDINGS['.h5']
        return ENDINGS['.pth'] if _is_of_pytorch(path) else ''
    except (OSError, zipfile.BadZipFile):
        return ''  # others say what is wrong with it


def _is_of_pytorch(path: pathlib.Path) -> bool:
    """Whether it is an archive with a pickle of tensors, whatever it is called (`model.ckpt`)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition('/')[2] == 'data.pkl' for name in archive.namelist())


def is_of_file_manager(path: pathlib.Path) -> bool:
    """Whether a file in a folder is none of the user's: Thumbs.db, desktop.ini, names that begin with a dot."""
    return path.name.startswith('.') or path.name.lower() in OF_FILE_MANAGERS


def checkpoint_at(path: files.Path, what: str) -> pathlib.Path:
    """The absolute path of a checkpoint of this project; InputError, which says what it is, if it is no folder."""
    found = files.local(path, what).absolute()
    if found.is_dir():
        return found
    if not found.is_file():
        raise InputError(f"{what} '{found}': no such folder")
    raise InputError(
        f"{what} '{found}' is {kind_of(found) or 'a file'}; wanted: a folder that a training wrote (weights, best), or"
        ' experiments/import_checkpoint.py made of official weights'
    )
