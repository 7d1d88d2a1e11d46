"""What the R1 configs are small differences from: every field of the recipe, unset."""

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
}
REINFORCE_STAGE = {"iterations": int, "rl": base.RL}
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
  "evaluation": {"problems": int, "samples": int, "max_new": int},
  "engine_batch": int,
  "log_every": int,
  "save_every": int,
}


def r1(**changes: Any) -> ConfigDict:
  """A config of the recipe with some fields set."""
  config = base.unset(R1)
  config.update(changes)
  return config
