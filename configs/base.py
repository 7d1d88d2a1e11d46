"""What the configs are small differences from: every field, unset.

An unset field takes the library's default, or in `model` the preset's value. It is here so that it
has a type and can be given on the command line: --config.model.layers=2. A field that was set to
None is not unset: --config.optimizer.clip_norm=None does not clip.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

MODEL = {
  "preset": str,
  "vocab": int,
  "d_model": int,
  "layers": int,
  "heads": int,
  "dense_ff": int,
  "attention": {
    "kv_latent": int,
    "nope_dim": int,
    "rope_dim": int,
    "v_dim": int,
    "q_latent": int,
    "kv_heads": int,
    "head_dim": int,
    "qkv_bias": bool,
    "qk_norm": bool,
  },
  "moe": {
    "experts": int,
    "top_k": int,
    "expert_ff": int,
    "shared": int,
    "dense_layers": int,
    "groups": int,
    "top_groups": int,
    "scoring": str,
    "group_score": str,
    "selection_bias": bool,
    "normalize": bool,
    "scale": float,
  },
  "mtp_depth": int,
  "rope": {
    "theta": float,
    "scaling": str,
    "factor": float,
    "original_context": int,
    "beta_fast": float,
    "beta_slow": float,
    "mscale": float,
    "mscale_all_dim": float,
    "low_freq_factor": float,
    "high_freq_factor": float,
  },
  "norm_eps": float,
  "tied": bool,
  "max_context": int,
  "init_std": float,
}
COMPUTE = {
  "dtype": str,
  "precision": str,
  "kernels": str,
  "remat": str,
  "unroll": int,
  "attention_block": int,
  "dispatch": str,
}
OPTIMIZER = {
  "beta1": float,
  "beta2": float,
  "epsilon": float,
  "weight_decay": float,
  "clip_norm": float,
  "moment_dtype": str,
  "ema_decay": float,
}
COSINE = {
  "peak": float,
  "warmup": int,
  "final": float,
  "speed": float,
  "still_after": float,
  "mtp": tuple,
  "mtp_after": float,
}
LORA = {"rank": int, "alpha": float, "targets": str, "base": str}
LOOP = {
  "steps": int,
  "checkpoint_every": int,
  "keep": int,
  "log_every": int,
  "spike_factor": float,
  "progress_seconds": float,
  "profile_steps": str,
}
DATA = {
  "source": str,
  "path": str,
  "task": str,
  "records": int,
  "tokenizer": str,
  "batch": int,
  "length": int,
  "packing": str,
  "loss": str,
  "fim_rate": float,
  "epochs": int,
  "shards": int,
  "seed": int,
  "split": str,
  "text_field": str,
  "prompt_field": str,
  "template": str,
}
MESH = {"data": int, "fsdp": int, "expert": int, "context": int, "tensor": int}
EVALUATION = {
  "every": int,
  "benchmark": str,
  "problems": int,
  "samples": int,
  "temperatures": tuple,
  "max_new": int,
  "batch": int,
}
PRETRAIN = {
  "model": MODEL,
  "schedule": COSINE,
  "train": LOOP,
  "data": DATA,
  "optimizer": OPTIMIZER,
  "compute": COMPUTE,
  "mesh": MESH,
  "micro_batches": int,
  "balance_weight": float,
  "loss_chunk": int,
  "evaluation": EVALUATION,
  "seed": int,
  "init": str,
  "lora": LORA,
}
REJECTION = {
  "prompts": int,
  "group": int,
  "keep": int,
  "max_new": int,
  "temperature": float,
  "template": str,
  "format": float,
  "language": float,
  "repeated": float,
  "policy": str,
  "cites": str,
}
DISTILL = {
  **PRETRAIN,
  "teacher": str,
  "traces": REJECTION,
  "mix": float,
  "temperature": float,
  "engine_batch": int,
}
REWARD = {
  "correct": float,
  "format": float,
  "language": float,
  "said": float,
  "overlong": {"weight": float, "buffer": int},
  "cosine": {
    "weight": float,
    "right_short": float,
    "right_long": float,
    "wrong_short": float,
    "wrong_long": float,
    "exceeding": float,
  },
  "repetition": {"weight": float, "ngram": int},
  "learned": {"weight": float, "model": str, "reads": str, "tasks": str},
}
RL = {
  "rollout": {
    "prompts": int,
    "group": int,
    "dynamic": int,
    "turns": int,
    "max_new": int,
    "temperature": float,
    "updates": int,
    "rows": int,
    "width": int,
    "share_prompts": bool,
    "template": str,
    "reward": REWARD,
    "advantage": {"scale": str, "truncated": str, "normalisation": str},
  },
  "epochs": int,
  "ratio_level": str,
  "clip_low": float,
  "clip_high": float,
  "correction": str,
  "correction_cap": float,
  "largest_gap": float,
  "kl": str,
  "kl_weight": float,
  "reference_every": int,
  "peak": float,
  "final": float,
  "warmup": int,
  "bias_speed": float,
  "mtp_weight": float,
  "balance_weight": float,
}
GRPO = {
  "model": MODEL,
  "rl": RL,
  "train": LOOP,
  "samples": {"count": int, "megabytes": float},
  "task": str,
  "tokenizer": str,
  "optimizer": OPTIMIZER,
  "compute": COMPUTE,
  "mesh": MESH,
  "engine_batch": int,
  "loss_chunk": int,
  "evaluation": EVALUATION,
  "seed": int,
  "init": str,
  "lora": LORA,
}


class Place(FieldReference):
  """A field of a type and without a value, which knows whether it was ever given one."""

  def __init__(self, kind: type):
    super().__init__(None, field_type=kind)
    self.given = False

  def set(self, value: Any, type_safe: bool = True) -> None:
    """Gives it a value, None included."""
    super().set(value, type_safe)
    self.given = True


class Section(ConfigDict):
  """Places of fields, and sections within; what was never set is not in `to_dict`."""

  def __setitem__(self, key: str, value: Any) -> None:
    if isinstance(self.get(key), Section) and (value is None or isinstance(value, ConfigDict)):
      del self[key]  # for another section may take its place, or None
    super().__setitem__(key, value)

  def update(self, *others: Any, **more: Any) -> None:
    """Sets fields, and fields of sections; a section that is None is none."""
    for values in (*others, more):
      nothing = [n for n, v in values.items() if v is None and isinstance(self.get(n), Section)]
      for name in nothing:
        self[name] = None
      super().update({n: v for n, v in values.items() if n not in nothing} if nothing else values)

  def to_dict(
    self, visit_map: dict | None = None, preserve_field_references: bool = False
  ) -> dict[str, Any]:
    """The fields that were set, by their names."""
    values = super().to_dict(visit_map, preserve_field_references)
    for name, field in self.iteritems(preserve_field_references=True):
      unset_place = isinstance(field, Place) and not field.given
      if unset_place or (isinstance(field, Section) and field and not values[name]):
        del values[name]
    return values


def unset(fields: dict[str, Any]) -> ConfigDict:
  """A ConfigDict with a typed, empty place for each field."""
  section = Section()
  for name, kind in fields.items():
    section[name] = unset(kind) if isinstance(kind, dict) else Place(kind)
  return section


def pretrain(**changes: Any) -> ConfigDict:
  """A pre-training or fine-tuning config with some fields set."""
  config = unset(PRETRAIN)
  config.update(changes)
  return config


def distill(**changes: Any) -> ConfigDict:
  """A distillation config with some fields set."""
  config = unset(DISTILL)
  config.update(changes)
  return config


def grpo(**changes: Any) -> ConfigDict:
  """A reinforcement config with some fields set."""
  config = unset(GRPO)
  config.update(changes)
  return config


REWARD_MODEL = {
  "model": MODEL,
  "train": LOOP,
  "data": {
    "source": str,
    "path": str,
    "task": str,
    "records": int,
    "labels": float,
    "tokenizer": str,
    "batch": int,
    "length": int,
    "epochs": int,
    "seed": int,
    "split": str,
    "heldout": float,
    "template": str,
  },
  "peak": float,
  "final": float,
  "warmup": int,
  "bias_speed": float,
  "balance_weight": float,
  "evaluation": {"every": int},
  "optimizer": OPTIMIZER,
  "compute": COMPUTE,
  "mesh": MESH,
  "seed": int,
  "init": str,
}


def reward_model(**changes: Any) -> ConfigDict:
  """A reward model's config with some fields set."""
  config = unset(REWARD_MODEL)
  config.update(changes)
  return config
