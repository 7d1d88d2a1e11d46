"""The R1 graph on a real model: SmolLM2-135M-Instruct, from a GGUF file, on two CPU cores.

Reproduces: the order of 2501.12948's stages (figure 2), not its figures, on a model that is already
  instructed. Tokenizer, turns and end tokens are the model's own. It writes no tags, so the form is
  neither rewarded nor asked for. Students would begin as the same model, so there are none;
  --config.stages= and --config.student_base.init=MODEL bring them back.
Hardware: two CPU cores, hours; the same command goes on where it was cut short.
Command: python -m experiments.r1 --config=configs/r1_smollm2.py --workdir=runs/smollm2
         --config.base.init=SmolLM2-135M-Instruct.Q4_1.gguf
Result: not run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.r1_base import r1

MAX_NEW, LENGTH = 64, 192


def reinforced(iterations: int, **reward: float) -> dict[str, Any]:
  """Eight prompts with eight samples each, and one update of them."""
  return {
    "iterations": iterations,
    "rl": {
      "rollout": {
        "prompts": 8,
        "group": 8,
        "max_new": MAX_NEW,
        "updates": 1,
        "rows": 8,
        "width": LENGTH,
        "reward": {"correct": 1.0, "format": 0.0, **reward},
      },
      "peak": 2e-6,
      "warmup": 5,
    },
  }


def tuned(prompts: int) -> dict[str, Any]:
  """Two epochs on right answers, in any form."""
  samples = {"prompts": prompts, "group": 4, "keep": 2, "max_new": MAX_NEW, "format": 0.0}
  samples |= {"language": 0.0, "temperature": 0.8}
  return {"samples": samples, "epochs": 2, "batch": 8, "length": LENGTH, "rate": 2e-5}


def get_config() -> ConfigDict:
  """Small numbers: a stage of reinforcement is 30 iterations."""
  return r1(
    stages="base,r1_zero,cold_start,rl1,sft2,r1",
    base={"init": ""},
    r1_zero=reinforced(30),
    cold_start=tuned(prompts=64),
    rl1=reinforced(30),
    sft2=tuned(prompts=128),
    r1=reinforced(30),
    student_base={"init": ""},
    distilled=tuned(prompts=128),
    student_rl=reinforced(30),
    task="chain_sum",
    evaluation={"problems": 64, "samples": 4, "max_new": MAX_NEW},
    optimizer={"weight_decay": 0.0},
    engine_batch=32,
    save_every=10,
  )
