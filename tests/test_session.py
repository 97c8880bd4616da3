"""The strictness that conftest.py and pyproject.toml promise is really on."""

import importlib
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import dpc_jax
from dpc_jax import base


def test_integers_and_floats_do_not_mix():
    with pytest.raises(ValueError, match='jax_numpy_dtype_promotion=strict'):
        jnp.ones((2,), jnp.int32) + jnp.ones((2,), jnp.float32)


def test_ranks_do_not_promote():
    with pytest.raises(ValueError, match="jax_numpy_rank_promotion='raise'"):
        jnp.ones((2, 3)) + jnp.ones((3,))


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match='raised'):
        warnings.warn('raised', stacklevel=1)


def test_there_are_four_devices():
    assert jax.device_count() == 4


def test_types_in_signatures_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match='seed'):
        base.key_from_seed('one')


def test_shapes_in_signatures_are_checked(tmp_path, monkeypatch):
    source = """
    import jax
    from jaxtyping import Array, Float

    def total(rows: Float[Array, 'B C'], weights: Float[Array, ' C']) -> Float[Array, ' B']:
        return rows @ weights
    """
    (tmp_path / 'forged.py').write_text(textwrap.dedent(source))
    monkeypatch.setattr(dpc_jax, '__path__', [str(tmp_path)])
    forged = importlib.import_module('dpc_jax.forged')
    monkeypatch.delitem(sys.modules, 'dpc_jax.forged')
    monkeypatch.delattr(dpc_jax, 'forged')

    np.testing.assert_array_equal(forged.total(jnp.ones((2, 3)), jnp.ones((3,))), [3, 3])
    with pytest.raises(jaxtyping.TypeCheckError, match='weights'):
        forged.total(jnp.ones((2, 3)), jnp.ones((2,)))


def test_an_absent_shared_file_skips_and_says_which(shared):
    with pytest.raises(pytest.skip.Exception, match=r"'no/such\.file' is not in the folder"):
        shared('no/such.file')
