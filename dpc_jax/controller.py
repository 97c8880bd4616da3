"""A recurrent policy over the genes of any space, and how rewards train it (arXiv:1810.10804 §3.3; its release).

    start -> [LSTM of two layers] x (warm-up + genes); after each gene step a linear head: probabilities of its values

Two policies: 'factorised', as released, in which the next input is the last output, so that no gene depends on the
values of others; and 'autoregressive', as the paper draws it, in which the next input is an embedding of the value that
was drawn. Two rules of learning: 'ppo', as released (a ring of the last 100 candidates, one pass over it after each new
one, in steps of one candidate), and 'reinforce', one step for each candidate.

Pure functions of frozen states; what draws and stores is `samplers/controller.py`.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dpc_jax import checks
from dpc_jax.base import InputError, PyTree

POLICIES = ('factorised', 'autoregressive')
RULES = ('ppo', 'reinforce')
INIT = 0.1  # all parameters are uniform in ± 0.1 (release)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a controller is; defaults are the release's.

    Attributes:
      choices: of each gene, in the order in which genes are drawn.
      heads: of each gene, the number of its linear head; genes of one head have equally many choices.
    """

    choices: tuple[int, ...]
    heads: tuple[int, ...]
    policy: str = 'factorised'
    rule: str = 'ppo'
    hidden: int = 100
    layers: int = 2
    warm_up: int = 4  # steps before the first gene
    learning_rate: float = 1e-4
    clip_norm: float = 2.0  # of gradients
    clip: float = 0.1  # of PPO's ratio
    entropy_weight: float = 0.0
    baseline_decay: float = 0.95
    buffer: int = 100  # candidates that PPO goes through after each new one

    def __post_init__(self) -> None:
        checks.one_of('controller.policy', self.policy, POLICIES)
        checks.one_of('controller.rule', self.rule, RULES)
        checks.fields_at_least(1, self, ('hidden', 'layers', 'buffer'), 'controller')
        checks.fields_at_least(0, self, ('warm_up', 'entropy_weight'), 'controller')
        checks.below_one('controller.baseline_decay', self.baseline_decay)
        for field in ('learning_rate', 'clip_norm', 'clip'):
            if not getattr(self, field) > 0:
                raise InputError(f'controller.{field} is {getattr(self, field)}; it must be greater than 0')

    @property
    def genes(self) -> int:
        """G."""
        return len(self.choices)

    @property
    def most(self) -> int:
        """The largest number of choices."""
        return max(self.choices)


class Policy(NamedTuple):
    """Parameters."""

    start: Float[Array, ' H']
    input_kernels: Float[Array, 'layers H 4*H']
    hidden_kernels: Float[Array, 'layers H 4*H']
    biases: Float[Array, 'layers 4*H']
    head_kernels: Float[Array, 'heads H V']  # V: the most choices; what a gene lacks is masked
    head_biases: Float[Array, 'heads V']
    embeddings: Float[Array, 'heads V H']  # of the autoregressive policy


class Controller(NamedTuple):
    """All that learning changes."""

    policy: Policy
    opt_state: optax.OptState
    baseline: Float[Array, '']
    tokens: Int[Array, 'R G']  # the ring of the last candidates
    log_probs: Float[Array, ' R']  # of these when they were drawn
    rewards: Float[Array, ' R']
    learned: Int[Array, '']  # candidates that it has learned from


def init(key: jax.Array, settings: Settings) -> Controller:
    """A fresh controller."""
    hidden, heads = settings.hidden, max(settings.heads) + 1
    layer = (settings.layers, hidden, 4 * hidden)
    shapes: dict[str, tuple[int, ...]] = {
        'start': (hidden,),
        'input_kernels': layer,
        'hidden_kernels': layer,
        'biases': (settings.layers, 4 * hidden),
        'head_kernels': (heads, hidden, settings.most),
        'head_biases': (heads, settings.most),
        'embeddings': (heads, settings.most, hidden),
    }
    keys = jax.random.split(key, len(shapes))
    drawn = {
        name: jax.random.uniform(k, shape, minval=-INIT, maxval=INIT)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    policy = Policy(**drawn)
    ring = (settings.buffer, settings.genes)
    return Controller(
        policy,
        _optimizer(settings).init(policy),
        jnp.float32(0),
        jnp.zeros(ring, jnp.int32),
        jnp.zeros(settings.buffer),
        jnp.zeros(settings.buffer),
        jnp.int32(0),
    )


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optax.adam(settings.learning_rate))


# ---- the policy -----------------------------------------------------------------------------------------------------


def _lstm(policy: Policy, x: Float[Array, ' H'], state: PyTree) -> tuple[Float[Array, ' H'], PyTree]:
    """One step of all layers; `state` is (hidden, cell), [layers, H] each."""
    hidden, cell = [], []
    for layer, (h, c) in enumerate(zip(*state, strict=True)):
        gates = x @ policy.input_kernels[layer] + h @ policy.hidden_kernels[layer] + policy.biases[layer]
        entering, forget, candidate, output = jnp.split(gates, 4)
        c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(entering) * jnp.tanh(candidate)
        x = jax.nn.sigmoid(output) * jnp.tanh(c)
        hidden.append(x)
        cell.append(c)
    return x, (jnp.stack(hidden), jnp.stack(cell))


def _run(
    key: jax.Array | None, policy: Policy, settings: Settings, tokens: Int[Array, ' G'] | None
) -> tuple[Int[Array, ' G'], Float[Array, 'G V']]:
    """The tokens, drawn by `key` where none are given, and the log-probabilities of all values of each gene."""
    state = (jnp.zeros((settings.layers, settings.hidden), policy.start.dtype),) * 2
    x = policy.start
    for _ in range(settings.warm_up):
        x, state = _lstm(policy, x, state)
    heads, choices = jnp.array(settings.heads), jnp.array(settings.choices)
    keys = None if key is None else jax.random.split(key, settings.genes)

    def step(carry: PyTree, gene: PyTree) -> tuple[PyTree, PyTree]:
        x, state = carry
        head, count, token, gene_key = gene
        y, state = _lstm(policy, x, state)
        logits = y @ policy.head_kernels[head] + policy.head_biases[head]
        allowed = jnp.arange(settings.most) < count
        log_probs = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))
        if gene_key is not None:
            token = jax.random.categorical(gene_key, log_probs)
        x = policy.embeddings[head, token] if settings.policy == 'autoregressive' else y
        return (x, state), (token, log_probs)

    _, (drawn, log_probs) = lax.scan(step, (x, state), (heads, choices, tokens, keys))
    return drawn.astype(jnp.int32), log_probs


def log_prob(policy: Policy, tokens: Int[Array, ' G'], settings: Settings) -> Float[Array, '']:
    """Of a candidate (unbatched)."""
    _, log_probs = _run(None, policy, settings, tokens)
    return jnp.take_along_axis(log_probs, tokens[:, None], 1).sum()


def entropy(log_probs: Float[Array, 'G V']) -> Float[Array, '']:
    """Of the genes, added up, in nats."""
    possible = jnp.where(jnp.isfinite(log_probs), log_probs, 0)  # first, or the gradient is 0 * inf
    return -jnp.where(jnp.isfinite(log_probs), jnp.exp(possible) * possible, 0).sum()


class Drawn(NamedTuple):
    """A candidate of the policy."""

    tokens: Int[Array, '*P G']
    log_prob: Float[Array, '*P']
    entropy: Float[Array, '*P']


@functools.partial(jax.jit, static_argnames=('settings', 'count'))
def draw(key: jax.Array, policy: Policy, *, settings: Settings, count: int) -> Drawn:
    """So many candidates, independently."""

    def one(key: jax.Array) -> Drawn:
        tokens, log_probs = _run(key, policy, settings, None)
        return Drawn(tokens, jnp.take_along_axis(log_probs, tokens[:, None], 1).sum(), entropy(log_probs))

    return jax.vmap(one)(jax.random.split(key, count))


# ---- learning -------------------------------------------------------------------------------------------------------


def policy_loss(
    policy: Policy,
    tokens: Int[Array, ' G'],
    old: Float[Array, ''],
    advantage: Float[Array, ''],
    settings: Settings,
) -> Float[Array, '']:
    """What a step makes smaller, of one candidate whose log-probability was `old` when it was drawn."""
    _, log_probs = _run(None, policy, settings, tokens)
    now = jnp.take_along_axis(log_probs, tokens[:, None], 1).sum()
    gain = now * advantage
    if settings.rule == 'ppo':
        ratio = jnp.exp(now - old)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip) * advantage)
    return -gain - settings.entropy_weight * entropy(log_probs)


def baseline_after(baseline: Array, reward: Array, count: Array, decay: float) -> Float[Array, '']:
    """The moving mean of rewards; the first is the first reward."""
    return jnp.where(count == 0, reward, decay * baseline + (1 - decay) * reward)


@functools.partial(jax.jit, static_argnames='settings')
def learn(
    controller: Controller,
    tokens: Int[Array, ' G'],
    old: Float[Array, ''],
    reward: Float[Array, ''],
    *,
    settings: Settings,
) -> Controller:
    """The controller after one more candidate. The baseline moves before advantages are formed."""
    place = controller.learned % settings.buffer
    controller = controller._replace(
        baseline=baseline_after(controller.baseline, reward, controller.learned, settings.baseline_decay),
        tokens=controller.tokens.at[place].set(tokens),
        log_probs=controller.log_probs.at[place].set(old),
        rewards=controller.rewards.at[place].set(reward),
        learned=controller.learned + 1,
    )
    transform = _optimizer(settings)

    def step(carry: PyTree, entry: PyTree) -> tuple[PyTree, None]:
        policy, opt_state = carry
        tokens, old, reward = entry
        grads = jax.grad(policy_loss)(policy, tokens, old, reward - controller.baseline, settings)
        with jax.numpy_dtype_promotion('standard'):  # optax raises a float to a whole number
            updates, opt_state = transform.update(grads, opt_state, policy)
        return (optax.apply_updates(policy, updates), opt_state), None

    def through_ring(index: Array, carry: PyTree) -> PyTree:
        entry = (controller.tokens[index], controller.log_probs[index], controller.rewards[index])
        return step(carry, entry)[0]

    carry = (controller.policy, controller.opt_state)
    if settings.rule == 'ppo':
        filled = jnp.minimum(controller.learned, settings.buffer)
        policy, opt_state = lax.fori_loop(jnp.int32(0), filled, through_ring, carry)
    else:
        (policy, opt_state), _ = step(carry, (tokens, old, reward))
    return controller._replace(policy=policy, opt_state=opt_state)


# ---- as bytes -------------------------------------------------------------------------------------------------------


def to_bytes(controller: Controller) -> bytes:
    """All numbers of a controller, in order of its leaves."""
    return b''.join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(controller))


def from_bytes(data: bytes, settings: Settings) -> Controller:
    """Inverse of `to_bytes`; InputError if the length is not that of such a controller."""
    like = jax.eval_shape(lambda: init(jax.random.key(0), settings))
    leaves, tree = jax.tree.flatten(like)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in leaves]
    if len(data) != sum(sizes):
        raise InputError(f'a controller of {len(data)} bytes; one of these settings has {sum(sizes)}')
    ends = np.cumsum(sizes)
    parts = (data[end - size : end] for end, size in zip(ends, sizes, strict=True))
    arrays = [
        jnp.asarray(np.frombuffer(part, leaf.dtype).reshape(leaf.shape))
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    found: Controller = jax.tree.unflatten(tree, arrays)
    return found
