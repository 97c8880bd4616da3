"""Networks whose variables are drawn here and not by their own initialisers."""

import jax
import jax.numpy as jnp
import numpy as np

from dpc_jax import networks
from dpc_jax.base import PyTree
from dpc_jax.segmenter import Segmenter


def filled(network: Segmenter, seed: int = 0) -> PyTree:
    """Variables of the right shapes, quickly: `init` compiles the whole network."""
    draw = np.random.default_rng(seed)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = draw.standard_normal(leaf.shape).astype(np.float32)
        noise *= np.sqrt(2 * leaf.shape[-1] / leaf.size) if path[-1].key == 'kernel' else 0.1
        return jnp.asarray(1 + np.abs(noise) if path[-1].key in ('var', 'scale') else noise)

    return jax.tree_util.tree_map_with_path(fill, networks.variable_shapes(network))
