"""Devices that are not there: one line that says what to install. (Meshes are tested where they are used.)"""

import importlib.util
import os
import subprocess
import sys

import pytest

from dpc_jax import sharding

needs_no_cuda = pytest.mark.skipif(
    any(importlib.util.find_spec(f'jax_cuda{version}_plugin') for version in (12, 13)),
    reason='what JAX without CUDA says: here it is installed with it',
)

CHECK = """
from jax._src import hardware_utils
hardware_utils.has_visible_nvidia_gpu = lambda: {gpu}
from dpc_jax import base, sharding
try:
    sharding.check_devices()
except base.InputError as error:
    print(error)
"""


def said(platforms, *, gpu):
    """Standard output and error of `check_devices` in a process of its own, on a machine with or without a GPU."""
    environment = {name: value for name, value in os.environ.items() if name != 'JAX_PLATFORMS'}
    environment |= {'JAX_PLATFORMS': platforms} if platforms else {}
    command = [sys.executable, '-c', CHECK.format(gpu=gpu)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    return done.stdout, done.stderr


@needs_no_cuda
@pytest.mark.parametrize('gpu', [True, False])
def test_cuda_that_is_asked_for_and_not_installed_is_one_line(gpu):
    out, err = said('cuda', gpu=gpu)
    assert (out.count('\n'), err) == (1, '')
    assert out.startswith("JAX cannot start with JAX_PLATFORMS='cuda': ")
    assert "NVIDIA GPUs need pip install 'dpc_jax[cuda12]'" in out


@needs_no_cuda
def test_a_gpu_that_stays_idle_is_one_line():
    out, err = said('', gpu=True)
    assert (out, err.count('\n')) == ('', 1)
    assert err.endswith(f'To use it: {sharding.CUDA}\n')


def test_a_platform_that_is_not_known_is_one_line():
    out, err = said('abacus', gpu=False)
    assert (out.count('\n'), err) == (1, '')
    assert out.startswith("JAX cannot start with JAX_PLATFORMS='abacus': ")
    assert 'dpc_jax[' not in out
