"""What the R1 configs are small differences from: every field of the recipe, unset.

`init` in a stage's section puts a model from outside in its place, whose `tokenizer` is its own
unless it brings none, and of whose `model` the context and the rotation may be changed; `stages`
names the stages that there shall be (see deepseek_jax/recipe/resolve.py).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base

PRETRAIN_STAGE = {
  "steps": int,
  "batch": int,
  "length": int,
  "packing": str,
  "rate": float,
  "warmup": int,
  "mtp": tuple,
  "bias_speed": float,
  "balance_weight": float,
  "task": str,
  "tokenizer": str,
  "init": str,
  "model": base.MODEL,
}
WRITTEN = {
  "path": str,
  "share": float,
  "split": str,
  "prompt_field": str,
  "text_field": str,
}
TUNE_STAGE = {
  "samples": base.REJECTION,
  "epochs": int,
  "batch": int,
  "length": int,
  "rate": float,
  "warmup": int,
  "mtp_weight": float,
  "bias_speed": float,
  "balance_weight": float,
  "start": str,
  "source": str,
  "task": str,
  "template": str,
  "traces": WRITTEN,
  "general": WRITTEN,
  "init": str,
  "model": base.MODEL,
  "tokenizer": str,
}
REINFORCE_STAGE = {
  "iterations": int,
  "rl": base.RL,
  "start": str,
  "task": str,
  "init": str,
  "model": base.MODEL,
  "tokenizer": str,
}
R1 = {
  "teacher": base.MODEL,
  "student": base.MODEL,
  "base": PRETRAIN_STAGE,
  "r1_zero": REINFORCE_STAGE,
  "cold_start": TUNE_STAGE,
  "rl1": REINFORCE_STAGE,
  "sft2": TUNE_STAGE,
  "r1": REINFORCE_STAGE,
  "student_base": PRETRAIN_STAGE,
  "distilled": TUNE_STAGE,
  "student_rl": REINFORCE_STAGE,
  "task": str,
  "tokenizer": str,
  "seed": int,
  "optimizer": base.OPTIMIZER,
  "compute": base.COMPUTE,
  "mesh": base.MESH,
  "evaluation": {"problems": int, "samples": int, "max_new": int, "template": str},
  "engine_batch": int,
  "log_every": int,
  "save_every": int,
  "price_per_device_hour": float,
  "stages": str,
}


def r1(**changes: Any) -> ConfigDict:
  """A config of the recipe with some fields set."""
  config = base.unset(R1)
  config.update(changes)
  return config
