"""The families and their cases, each from its own list of shapes."""

from collections.abc import Callable, Iterator

from pallas_kernels.bench import decoding, dense, experts, layer
from pallas_kernels.bench.cases import Case

# Cases of the small shapes, which a CPU can run, or of all the models'.
FAMILIES: dict[str, Callable[[bool], Iterator[Case]]] = {
  "fp8": dense.fp8_cases,
  "gemm": dense.gemm_cases,
  "grouped": experts.grouped_cases,
  "bf16": experts.bf16_cases,
  "routing": decoding.routing_cases,
  "mla": decoding.mla_cases,
  "layer": layer.cases,
}
