"""What is read from PTX, on PTX written by hand."""

from pallas_kernels.testing import ptx

_STEP = "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%r1, %r2}, %rd1, %rd2, p, 1, 1;\n"
_WAIT = "wgmma.wait_group.sync.aligned 0;\n"


def test_kinds():
  assert ptx.wgmma_kinds(_STEP + _WAIT) == {"m64n8k32.f32.e4m3.e4m3"}
  assert ptx.wgmma_kinds("add.f32 %r1, %r2, %r3;") == set()


def test_an_accumulation_ends_at_a_wait():
  assert ptx.longest_accumulation(4 * _STEP + _WAIT + 2 * _STEP + _WAIT) == 128
  assert ptx.longest_accumulation(8 * _STEP + _WAIT) == 256


def test_promotion_is_a_multiplication_that_reads_the_accumulator():
  promotion = "fma.rn.f32 %r9, %r1, %r5, %r9;\nmul.f32 %r8, %r5, %r2;\n"
  assert ptx.promoted(_STEP + _WAIT + promotion) == 2
  assert ptx.promoted(_STEP + _WAIT + "add.f32 %r9, %r1, %r9;\n") == 0
  assert ptx.promoted(_STEP + "fma.rn.f32 %r1, %r6, %r7, %r1;\n") == 0
