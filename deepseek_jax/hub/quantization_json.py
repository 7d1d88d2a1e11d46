"""The field quantization_config of config.json: FP8 blocks as DeepSeek-V3 has them, or nothing."""

from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.ops.fp8 import BLOCK

FIELD = "quantization_config"
FP8 = {
  "activation_scheme": "dynamic",
  "fmt": "e4m3",
  "quant_method": "fp8",
  "weight_block_size": [BLOCK, BLOCK],
}
# Fields that must be absent, null or one of these. V3.1's scales are powers of two (ue8m0), stored
# as float32 like the others; what a file names as not converted is seen from its tensors.
_ONLY: dict[str, tuple[Any, ...]] = {
  **{name: (value,) for name, value in FP8.items()},
  "scale_fmt": ("ue8m0", "float"),
}


def check(fields: Mapping[str, Any]) -> None:
  """Refuses a config.json whose quantization is another than FP8 in blocks, by its field."""
  given = fields.get(FIELD)
  if given is None:
    return
  require(isinstance(given, Mapping), f"config.json has {FIELD} = {given!r}; not an object.")
  for name, allowed in _ONLY.items():
    value = given.get(name)
    optional = name not in ("quant_method", "weight_block_size")
    require(
      value in allowed or (value is None and optional),
      f"config.json has {FIELD}.{name} = {value!r}; only "
      f"{' or '.join(repr(a) for a in allowed)} is supported.",
    )
