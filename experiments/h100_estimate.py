"""What a compiled program must cost an H100 at least, read off the program on a machine without one.

XLA compiles ahead of time for a GPU that is described to it. The bytes that each kernel of the program reads and writes
are added up and divided by the card's bandwidth, its products by its arithmetic. That is an ESTIMATE, not a
measurement: every operand of a kernel counts in full, caches, waiting and what a kernel wastes inside do not count.

Needs the CUDA plugin of JAX (`pip install "jax[cuda12]"`), and no GPU.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpc_jax.base import InputError, PyTree

# NVIDIA's data sheet of the H100 SXM; of its arithmetic in bfloat16 the 80 % that large products reach.
BYTES_PER_SECOND = 3.35e12
FLOPS_PER_SECOND = {'bfloat16': 790e12, 'float32': 60e12}
LAUNCH_SECONDS = 2e-6
MEMORY = 80e9

DESCRIPTION = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Nothing can be tuned by timing without a card, so products go to cuBLAS, whose shapes are known to work.
OPTIONS: dict[str, str | bool] = {'xla_gpu_enable_triton_gemm': False, 'xla_gpu_autotune_level': '0'}

ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's64': 8, 'u64': 8, 'f64': 8}
NO_KERNEL = {
    *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'opt-barrier'),
    *('partition-id', 'iota'),
}

_ARRAY = re.compile(r'\b(pred|[suf]\d+|bf16)\[([\d,]*)\]')
_HEAD = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<rest>.*)$')


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a program, as often as it runs."""

    name: str
    op: str
    bytes: float
    flops: float
    times: int
    source: str  # where in the Python program it comes from

    @property
    def seconds(self) -> float:
        """At least this long, all runs together."""
        work = max(self.bytes / BYTES_PER_SECOND, self.flops / FLOPS_PER_SECOND['bfloat16'])
        return self.times * (work + LAUNCH_SECONDS)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is read off a program."""

    kernels: list[Kernel]
    temporary_bytes: int
    argument_bytes: int

    @property
    def seconds(self) -> float:
        """Of one run, at least."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def bytes(self) -> float:
        """Read and written by all kernels."""
        return sum(kernel.times * kernel.bytes for kernel in self.kernels)


def estimate(function: Callable[..., PyTree], *shapes: PyTree) -> Estimate:
    """Compiles `function` for one H100; `shapes` are trees of `jax.ShapeDtypeStruct`.

    Raises:
      InputError: the CUDA plugin of JAX is not installed.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    try:
        topology = topologies.get_topology_desc('h100', 'cuda', target_config=DESCRIPTION, topology='1x1x1')
    except Exception as error:  # of several types, by what is missing
        why = str(error).splitlines()[0][:100]
        raise InputError(
            f'an estimate for an H100 needs JAX with its CUDA plugin (pip install "jax[cuda12]"), no GPU is needed:'
            f' {why}'
        ) from error
    mesh = Mesh(np.array(topology.devices).reshape(-1)[:1], ('device',))
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec())), shapes
    )
    compiled = jax.jit(function).lower(*placed).compile(compiler_options=OPTIONS)
    memory: Any = compiled.memory_analysis()
    return Estimate(list(kernels(compiled.as_text() or '')), memory.temp_size_in_bytes, memory.argument_size_in_bytes)


def kernels(text: str) -> Iterator[Kernel]:
    """The kernels of a program that was compiled: of a condition those of the longest branch, of a loop all rounds."""
    found, types = _computations(text)

    def costs(name: str) -> list[Kernel]:
        return list(walk(name, 1))

    def walk(computation: str, times: int) -> Iterator[Kernel]:
        for line in found.get(computation, []):
            op, rest = line['op'], line['rest']
            if op in NO_KERNEL:
                continue
            if op == 'conditional':
                branches = [costs(branch) for branch in _called(rest, 'branch_computations', 'true_computation')]
                longest = max(branches, key=lambda branch: sum(kernel.seconds for kernel in branch))
                yield from (dataclasses.replace(kernel, times=kernel.times * times) for kernel in longest)
            elif op == 'while':
                rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
                if rounds is None:
                    raise InputError(f'the program has a loop ({line["name"]}) that does not say how often it runs')
                for body in _called(rest, 'body'):
                    yield from walk(body, times * int(rounds.group(1)))
            elif op == 'call':
                for body in _called(rest, 'to_apply'):
                    yield from walk(body, times)
            else:
                yield _kernel(line, found, types, times)

    yield from walk('ENTRY', 1)


def _computations(text: str) -> tuple[dict[str, list[dict[str, str]]], dict[str, str]]:
    """The instructions of each computation, and the type of each instruction."""
    found: dict[str, list[dict[str, str]]] = {}
    types: dict[str, str] = {}
    here: list[dict[str, str]] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            here = []
            found[head['name']] = here
            if head['entry']:
                found['ENTRY'] = here
        elif instruction := _INSTRUCTION.match(line):
            here.append(instruction.groupdict())
            types[instruction['name']] = instruction['type']
    return found, types


def _called(rest: str, *fields: str) -> list[str]:
    names: list[str] = []
    for field in fields:
        for match in re.finditer(rf'{field}=(\{{[^}}]*\}}|%?[\w.\-]+)', rest):
            names += [name.strip().lstrip('%') for name in match.group(1).strip('{}').split(',')]
    if 'true_computation' in fields:
        names += re.findall(r'false_computation=%?([\w.\-]+)', rest)
    return names


def _kernel(line: dict[str, str], found: dict[str, Any], types: dict[str, str], times: int) -> Kernel:
    operands = [types.get(name, '') for name in re.findall(r'%([\w.\-]+)', line['rest'].split('), ')[0])]
    flops = 0.0
    if line['op'] == 'fusion':
        flops = sum(
            _dot_flops(inner, types) for body in _called(line['rest'], 'calls') for inner in found.get(body, [])
        )
    elif line['op'] == 'dot':
        flops = _dot_flops(line, types)
    elif 'gemm' in line['rest'] or 'matmul' in line['name']:
        flops = _gemm_flops(line, operands)
    source = re.search(r'op_name="([^"]*)"', line['rest'])
    moved = float(size_of(line['type']) + sum(map(size_of, operands)))
    return Kernel(line['name'], line['op'], moved, flops, times, source.group(1) if source else '')


def size_of(text: str) -> int:
    """Bytes of all arrays in the text of a type."""
    return sum(ITEM_BYTES.get(kind, 4) * math.prod(_sides(sides)) for kind, sides in _ARRAY.findall(text))


def _sides(text: str) -> list[int]:
    return [int(side) for side in text.split(',') if side]


def _dot_flops(line: dict[str, str], types: dict[str, str]) -> float:
    if line['op'] != 'dot':
        return 0.0
    first = re.findall(r'%([\w.\-]+)', line['rest'])[0]
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', line['rest'])
    return _flops(line['type'], types.get(first, ''), _sides(contracted.group(1)) if contracted else [])


def _gemm_flops(line: dict[str, str], operands: list[str]) -> float:
    contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', line['rest'])
    if contracted is None or not operands:
        return 0.0
    return _flops(line['type'], operands[0], [int(side.strip('" ')) for side in contracted.group(1).split(',')])


def _flops(result: str, factor: str, contracted: list[int]) -> float:
    arrays, factors = _ARRAY.findall(result), _ARRAY.findall(factor)
    if not arrays or not factors:
        return 0.0
    sides = _sides(factors[0][1])
    return 2.0 * math.prod(_sides(arrays[0][1])) * math.prod(sides[index] for index in contracted)
