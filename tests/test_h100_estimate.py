"""What is read off the text of a compiled program: by a program that is written out here, and by bad luck."""

import pytest

from dpc_jax.base import InputError
from experiments import h100_estimate

PROGRAM = """HloModule jit_step

%fused_computation (p0: bf16[4,8], p1: bf16[8,2]) -> bf16[4,2] {
  %p0 = bf16[4,8]{1,0} parameter(0)
  %p1 = bf16[8,2]{1,0} parameter(1)
  ROOT %dot.1 = bf16[4,2]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%small (a: f32[10]) -> f32[10] {
  %a = f32[10]{0} parameter(0)
  ROOT %negate.1 = f32[10]{0} negate(%a)
}

%large (b: f32[10]) -> f32[10] {
  %b = f32[10]{0} parameter(0)
  %exponential.1 = f32[10]{0} exponential(%b)
  ROOT %negate.2 = f32[10]{0} negate(%exponential.1)
}

%body (c: f32[10]) -> f32[10] {
  %c = f32[10]{0} parameter(0)
  ROOT %cosine.1 = f32[10]{0} cosine(%c)
}

ENTRY %main (x: bf16[4,8], w: bf16[8,2], v: f32[10], flag: pred[]) -> f32[10] {
  %x = bf16[4,8]{1,0} parameter(0)
  %w = bf16[8,2]{1,0} parameter(1)
  %v = f32[10]{0} parameter(2)
  %flag = pred[] parameter(3)
  %fusion.1 = bf16[4,2]{1,0} fusion(%x, %w), kind=kCustom, calls=%fused_computation, metadata={op_name="jit(step)/dot"}
  %chosen = f32[10]{0} conditional(%flag, %v, %v), true_computation=%small, false_computation=%large
  ROOT %loop = f32[10]{0} while(%chosen), condition=%never, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_each_kernel_is_counted_as_often_as_it_runs():
    found = {kernel.name: kernel for kernel in h100_estimate.kernels(PROGRAM)}
    assert set(found) == {'fusion.1', 'exponential.1', 'negate.2', 'cosine.1'}  # of a condition the longer branch
    fusion = found['fusion.1']
    assert (fusion.bytes, fusion.flops) == (2 * (4 * 8 + 8 * 2 + 4 * 2), 2 * 4 * 8 * 2)
    assert fusion.source == 'jit(step)/dot'
    assert found['cosine.1'].times == 5
    assert found['cosine.1'].bytes == 80
    assert found['cosine.1'].seconds == pytest.approx(5 * (80 / 3.35e12 + 2e-6))


def test_a_loop_of_unknown_length_is_no_estimate():
    with pytest.raises(InputError, match=r'the program has a loop \(loop\) that does not say how often it runs'):
        list(h100_estimate.kernels(PROGRAM.replace('known_trip_count', 'unknown')))


def test_bytes_of_a_type():
    assert h100_estimate.size_of('(bf16[2,3]{1,0}, f32[], pred[7]{0}, u8[4]{0})') == 12 + 4 + 7 + 4
