"""FLOPs and bytes of each family, against numbers worked out by hand."""

import pytest

from pallas_kernels.bench import layer, work
from pallas_kernels.bench.families import FAMILIES
from pallas_kernels.bench.work import Work


@pytest.mark.parametrize(
  "counted, by_hand",
  (
    # 128 x 256 in bfloat16: 65536 in, 32768 out, 256 scales of 4 bytes.
    (work.quantize(128, 256), Work(0, 65536 + 32768 + 1024)),
    (work.quantize(128, 256, copies=2), Work(0, 65536 + 2 * (32768 + 1024))),
    (work.quantize(128, 256, inputs=2), Work(0, 2 * 65536 + 32768 + 1024)),
    # Float32 in, and 1 x 2 scales.
    (work.quantize_blocks(128, 256), Work(0, 131072 + 32768 + 8)),
    # 64 x 200 x 256: 16384 + 51200 operands, 2 x 64 and 2 x 2 scales, 12800 results.
    (work.product(64, 200, 256), Work(6553600, 16384 + 51200 + 512 + 16 + 25600)),
    # dy 256 x 128 and x 256 x 384: 2 tiles of tokens, 49152 float32 results.
    (work.weight_gradient(256, 128, 384), Work(25165824, 131072 + 4096 + 196608)),
    # 100 rows, 2 groups of 128 x 256: scales 2 x 100, and 2 of each group.
    (work.m_grouped(100, 2, 128, 256), Work(6553600, 25600 + 65536 + 800 + 16 + 25600)),
    # dy 128 x 128 and x 128 x 256, one tile of rows, 2 x 128 x 256 float32 results.
    (work.k_grouped(128, 2, 128, 256), Work(8388608, 49152 + 1536 + 262144)),
    (work.bfloat16(1000, 30, 7, out_bytes=4), Work(1000, 60 + 28, "bf16")),
    # 10 x 16 logits, 16 biases, 3 x 20 of the choices, 16 counts.
    (work.routing(10, 16, 2), Work(0, 4 * (160 + 16 + 60 + 16))),
    # 2 rows, 16 heads, 100 slots of 512 + 64: cache, queries, results, valid slots.
    (
      work.decode(2, 16, 100, 512, 64),
      Work(2 * 3200 * 1088, 230400 + 36864 + 32768 + 200, "bf16"),
    ),
  ),
)
def test_counts_are_those_made_by_hand(counted, by_hand):
  assert counted == by_hand


def test_a_layers_operations_are_three_products_of_each_matrix():
  sizes = layer.Sizes(10, {"a": (3, 4), "b": (5, 6)}, experts=8, top_k=2, model=7, width=11)
  assert sizes.flops == 3 * 2 * 10 * (12 + 30 + 2 * (22 * 7 + 7 * 11))


def test_published_shapes_have_their_work():
  cases = {(case.operation, case.shape): case.work for case in FAMILIES["gemm"](False)}
  expert = 2 * 4096 * 4096 * 7168
  for operation in ("forward", "input gradient", "weight gradient"):
    assert cases[operation, "expert gate+up: 4096 x 4096 x 7168"].flops == expert
  # The gradient of x contracts over N: results are M x K, and so are most of its bytes.
  assert cases["forward", "q_a+kv_a: 4096 x 2112 x 7168"] == work.product(4096, 2112, 7168)
  assert cases["input gradient", "q_a+kv_a: 4096 x 2112 x 7168"] == work.product(4096, 7168, 2112)
  assert cases["forward", "published: 4096 x 24576 x 7168"].flops == 2 * 4096 * 24576 * 7168
