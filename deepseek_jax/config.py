"""Frozen configurations of the model, and their validation.

A ConfigDict from the command line becomes these dataclasses at the edge (`from_dict`); nothing
below the edge reads anything else. Presets of published models are in `presets.py`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

T = TypeVar("T")


class ConfigError(ValueError):
  """A configuration the user can mend; its message is one sentence that names the field."""


def require(holds: bool, message: str) -> None:
  """Raises ConfigError with `message` unless `holds`."""
  if not holds:
    raise ConfigError(message)


@dataclasses.dataclass(frozen=True)
class RopeConfig:
  """Rotary position embedding: plain, positions divided, YaRN (DeepSeek) or Llama 3's scaling."""

  theta: float = 10_000.0
  scaling: str = "none"  # none | linear | yarn | llama3
  factor: float = 1.0
  original_context: int = 4096
  beta_fast: float = 32.0  # yarn
  beta_slow: float = 1.0  # yarn
  mscale: float = 1.0  # yarn
  mscale_all_dim: float = 0.0  # yarn
  low_freq_factor: float = 1.0  # llama3
  high_freq_factor: float = 4.0  # llama3

  def __post_init__(self) -> None:
    require(
      self.scaling in ("none", "linear", "yarn", "llama3"),
      f"rope.scaling is {self.scaling!r}; use none, linear, yarn or llama3.",
    )
    require(
      1 <= self.theta < math.inf, f"rope.theta is {self.theta}; it must be finite and at least 1."
    )
    require(
      self.theta > 1 or self.scaling != "yarn",
      f"rope.theta is {self.theta}; with rope.scaling yarn it must be above 1.",
    )
    # Transformers takes linear factors below 1; far below, float32 angles would be infinite.
    least = 1e-20 if self.scaling == "linear" else 1
    require(
      least <= self.factor < math.inf,
      f"rope.factor is {self.factor}; it must be finite and at least {least}.",
    )


@dataclasses.dataclass(frozen=True)
class MLAConfig:
  """Multi-head latent attention (2405.04434, section 2.1)."""

  kv_latent: int  # C
  nope_dim: int  # K
  rope_dim: int  # R
  v_dim: int  # U
  q_latent: int | None = None  # Q; None projects queries directly (V2-Lite)

  def __post_init__(self) -> None:
    for name in ("kv_latent", "nope_dim", "rope_dim", "v_dim"):
      value = getattr(self, name)
      require(value > 0, f"mla.{name} is {value}; it must be positive.")
    require(self.rope_dim % 2 == 0, f"mla.rope_dim is {self.rope_dim}; it must be even.")
    require(
      self.q_latent is None or self.q_latent > 0,
      f"mla.q_latent is {self.q_latent}; it must be positive, or None.",
    )


@dataclasses.dataclass(frozen=True)
class GQAConfig:
  """Grouped-query attention, as in Qwen2, Qwen3 and Llama 3."""

  kv_heads: int  # G
  head_dim: int  # K
  qkv_bias: bool = False  # Qwen2
  qk_norm: bool = False  # queries and keys are normed before they are rotated: Qwen3

  def __post_init__(self) -> None:
    require(self.kv_heads > 0, f"gqa.kv_heads is {self.kv_heads}; it must be positive.")
    require(
      self.head_dim > 0 and self.head_dim % 2 == 0,
      f"gqa.head_dim is {self.head_dim}; it must be positive and even.",
    )


@dataclasses.dataclass(frozen=True)
class MoEConfig:
  """DeepSeekMoE layers and their router (2412.19437, section 2.1.2)."""

  experts: int  # E, routed
  top_k: int  # A
  expert_ff: int  # F of one expert
  shared: int = 1  # shared experts, fused into one feed-forward of width shared * expert_ff
  dense_layers: int = 1  # leading layers without experts
  groups: int = 1  # Z
  top_groups: int = 1
  scoring: str = "sigmoid"  # sigmoid (V3) | softmax (V2)
  group_score: str = "top2"  # top2: sum of a group's two best (V3) | max (V2)
  selection_bias: bool = True  # a bias that only selects (V3)
  normalize: bool = True  # chosen weights are divided by their sum
  scale: float = 1.0

  def __post_init__(self) -> None:
    require(self.experts > 0, f"moe.experts is {self.experts}; it must be positive.")
    require(
      0 < self.top_k <= self.experts,
      f"moe.top_k is {self.top_k}; it must be between 1 and moe.experts, {self.experts}.",
    )
    require(self.expert_ff > 0, f"moe.expert_ff is {self.expert_ff}; it must be positive.")
    require(self.shared >= 0, f"moe.shared is {self.shared}; it must not be negative.")
    require(self.dense_layers >= 0, f"moe.dense_layers is {self.dense_layers}; it must be >= 0.")
    require(
      self.groups > 0 and self.experts % self.groups == 0,
      f"moe.groups is {self.groups}; it must divide moe.experts, {self.experts}.",
    )
    require(
      0 < self.top_groups <= self.groups,
      f"moe.top_groups is {self.top_groups}; it must be between 1 and moe.groups, {self.groups}.",
    )
    reachable = self.top_groups * self.experts // self.groups
    require(
      self.top_k <= reachable,
      f"moe.top_k is {self.top_k}, but {self.top_groups} groups hold only {reachable} experts.",
    )
    require(
      self.scoring in ("sigmoid", "softmax"),
      f"moe.scoring is {self.scoring!r}; use sigmoid or softmax.",
    )
    require(
      self.group_score in ("top2", "max"),
      f"moe.group_score is {self.group_score!r}; use top2 or max.",
    )
    require(
      self.group_score == "max" or self.groups == 1 or self.experts // self.groups >= 2,
      "moe.group_score top2 needs groups of at least two experts.",
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The architecture: what a checkpoint's shapes and arithmetic depend on, and nothing else."""

  vocab: int  # V
  d_model: int  # D
  layers: int  # L, without MTP modules
  heads: int  # H
  dense_ff: int  # F of a layer without experts
  attention: MLAConfig | GQAConfig
  moe: MoEConfig | None = None
  mtp_depth: int = 0  # P
  rope: RopeConfig = RopeConfig()
  norm_eps: float = 1e-6
  tied: bool = False  # the output head is the embedding transposed
  max_context: int = 4096
  init_std: float | None = None  # None: 0.5 / sqrt(d_model), which suits minis

  def __post_init__(self) -> None:
    for name in ("vocab", "d_model", "layers", "heads", "max_context"):
      value = getattr(self, name)
      require(value > 0, f"model.{name} is {value}; it must be positive.")
    require(self.mtp_depth >= 0, f"model.mtp_depth is {self.mtp_depth}; it must be >= 0.")
    require(
      self.expert_layers == self.layers or self.dense_ff > 0,
      f"model.dense_ff is {self.dense_ff}; it must be positive.",
    )
    if self.moe is not None:
      require(
        self.moe.dense_layers <= self.layers,
        f"moe.dense_layers is {self.moe.dense_layers}; it must not exceed model.layers, "
        f"{self.layers}.",
      )
    if isinstance(self.attention, GQAConfig):
      require(
        self.heads % self.attention.kv_heads == 0,
        f"gqa.kv_heads is {self.attention.kv_heads}; it must divide model.heads, {self.heads}.",
      )

  @property
  def expert_layers(self) -> int:
    """Layers of the main model that hold experts."""
    return 0 if self.moe is None else self.layers - self.moe.dense_layers

  @property
  def dense_layers(self) -> int:
    """Layers of the main model without experts."""
    return self.layers - self.expert_layers

  @property
  def router_rows(self) -> int:
    """Rows of `Weights.router_bias_LE`: expert layers, then MTP modules."""
    return 0 if self.moe is None else self.expert_layers + self.mtp_depth

  @property
  def std(self) -> float:
    """Standard deviation of the initial parameters."""
    return 0.5 / self.d_model**0.5 if self.init_std is None else self.init_std


PRECISIONS = ("plain", "bfloat16", "fp8", "fp8_gradient_blocks")  # see ops/precision.py


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
  """How the arithmetic is carried out; what is computed it changes by rounding at most."""

  dtype: str = "float32"  # of activations and matmuls: float32 | bfloat16
  precision: str = "plain"  # of linear layers: one of PRECISIONS
  kernels: str = "auto"  # auto (on a Hopper GPU or a TPU) | off | ref | xla | tpu | mgpu
  remat: str = "none"  # none | full | dots
  unroll: int = 8  # stacks of at most so many layers run without a loop, but for remat full
  attention_block: int = 1024  # above so many keys attention goes by blocks of at most this size
  dispatch: str = "auto"  # auto | dense | capacity | grouped: see ops/dispatch.py

  def __post_init__(self) -> None:
    require(
      self.dtype in ("float32", "bfloat16"),
      f"compute.dtype is {self.dtype!r}; use float32 or bfloat16.",
    )
    require(
      self.precision in PRECISIONS,
      f"compute.precision is {self.precision!r}; use {', '.join(PRECISIONS[:-1])} or "
      f"{PRECISIONS[-1]}.",
    )
    require(
      self.remat in ("none", "full", "dots"),
      f"compute.remat is {self.remat!r}; use none, full or dots.",
    )
    require(self.unroll >= 0, f"compute.unroll is {self.unroll}; it must not be negative.")
    require(
      self.attention_block > 0,
      f"compute.attention_block is {self.attention_block}; it must be positive.",
    )
    require(
      self.kernels in ("auto", "off", "ref", "xla", "tpu", "mgpu"),
      f"compute.kernels is {self.kernels!r}; use auto, off, ref, xla, tpu or mgpu.",
    )
    require(
      self.dispatch in ("auto", "dense", "capacity", "grouped"),
      f"compute.dispatch is {self.dispatch!r}; use auto, dense, capacity or grouped.",
    )


def from_dict(cls: type[T], values: Mapping[str, Any] | ConfigDict, where: str = "config") -> T:
  """Builds a frozen dataclass from a nested mapping (a ConfigDict, parsed JSON).

  Unknown fields, missing fields and wrong types raise ConfigError naming the field, `where`
  being its path. In a union of dataclasses the member is the one that has all the given fields.
  """
  if isinstance(values, ConfigDict):  # which is no Mapping
    values = values.to_dict()
  require(isinstance(values, Mapping), f"{where} is {values!r}; it must be a mapping of fields.")
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  for name in values:
    require(name in fields, f"{where} has no field {name!r}; its fields are {', '.join(fields)}.")
  built = {}
  for name, field in fields.items():
    if name in values:
      built[name] = _convert(hints[name], values[name], f"{where}.{name}")
    else:
      missing = (
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
      )
      require(not missing, f"{where}.{name} is missing.")
  return cls(**built)


def to_dict(config: Any) -> dict[str, Any]:
  """The inverse of `from_dict`: nested plain dictionaries, ready for JSON."""
  return dataclasses.asdict(config)


def completed(values: Mapping[str, Any], config: Any) -> dict[str, Any]:
  """Values that were once those of such a config, with the defaults of fields it has gained since.

  `config` is a dataclass as it is now. A field without a default stays missing.
  """
  found = dict(values)
  for field in dataclasses.fields(config):
    now, name = getattr(config, field.name), field.name
    if name in found:
      if dataclasses.is_dataclass(now) and isinstance(found[name], Mapping):
        found[name] = completed(found[name], now)
      continue
    made = field.default_factory
    default = made() if made is not dataclasses.MISSING else field.default
    if default is not dataclasses.MISSING:
      found[name] = to_dict(default) if dataclasses.is_dataclass(default) else default
  return found


def _convert(hint: Any, value: Any, where: str) -> Any:
  """Checks `value` against a type hint, building dataclasses and tuples on the way."""
  origin = typing.get_origin(hint)
  if origin in (typing.Union, types.UnionType):
    return _convert_union(typing.get_args(hint), value, where)
  if dataclasses.is_dataclass(hint):
    if isinstance(value, typing.cast(type, hint)):
      return value
    return from_dict(typing.cast(type, hint), value, where)
  if origin is tuple:
    require(isinstance(value, (list, tuple)), f"{where} is {value!r}; it must be a list.")
    item = typing.get_args(hint)[0]
    return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
  if hint is Any:
    return value
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
  require(right, f"{where} is {value!r}; it must be of type {hint.__name__}.")
  return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
  """Picks the member of a union that `value` fits."""
  if value is None and type(None) in options:
    return None
  options = tuple(o for o in options if o is not type(None))
  if isinstance(value, Mapping):
    records = [o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)]
    fitting = [o for o in records if set(value) <= {f.name for f in dataclasses.fields(o)}]
    if len(records) > 1 and len(fitting) != 1:
      names = " or ".join(o.__name__ for o in records)
      given = ", ".join(map(repr, value)) or "none"
      raise ConfigError(f"{where} must have the fields of {names}; it has {given}.")
    options = tuple(fitting or records) or options
  return _convert(options[0], value, where)
