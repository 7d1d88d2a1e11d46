"""The R1 graph on a real model: SmolLM2-135M-Instruct, from a GGUF file, on two CPU cores.

Reproduces: the order of 2501.12948's stages (figure 2) on a model that is already instructed, not
  its figures. The base is that model behind its first fine-tuning (configs/sft_smollm2.py), without
  which nothing that it says earns a reward; the student begins as the file has it. Tokenizer, turns
  and end tokens are the model's own.
Hardware: two CPU cores; the same command goes on where it was cut short.
Command: python -m experiments.r1 --config=configs/r1_smollm2.py --workdir=runs/smollm2
         --config.base.init=runs/smollm2_sft
         --config.student_base.init=SmolLM2-135M-Instruct.Q4_1.gguf
Result: 48 minutes, seed 0, 220 to 280 GFLOP/s in float32, with tests beside it. Of 64 held-out
  questions right, greedily and at T = 1: base .594 and .270, R1-Zero .672 and .594, cold start .641
  and .520, rl1 .734 and .645, sft2 .719 and .586, R1 .797 and .621; the student from 0 and 0 to
  .656 and .512. At T = 1, paired: R1-Zero over the base +.324 [.241, .407], rl1 over the cold start
  +.125 [.041, .209], R1 over sft2 +.035 [-.026, .096], R1 over R1-Zero +.027 [-.055, .110]
  (greedily +.125 [.031, .219]). No thought turns back; one epoch of fine-tuning on 108 samples.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.r1_base import r1

MAX_NEW = 64


def reinforced(iterations: int, peak: float, **reward: float) -> dict[str, Any]:
  """Eight prompts with eight samples each, and one update of them; a group shares its prompt."""
  return {
    "iterations": iterations,
    "rl": {
      "rollout": {
        "prompts": 8,
        "group": 8,
        "max_new": MAX_NEW,
        "updates": 1,
        "rows": 4,
        "width": 320,
        "share_prompts": True,
        "reward": {"correct": 1.0, "format": 0.1, **reward},
      },
      "peak": peak,
      "warmup": 3,
      "final": 0.5,
    },
  }


def tuned(prompts: int, rate: float) -> dict[str, Any]:
  """One epoch on right answers in readable form."""
  samples = {"prompts": prompts, "group": 4, "keep": 2, "max_new": MAX_NEW}
  return {"samples": samples, "epochs": 1, "batch": 4, "length": 192, "rate": rate}


def get_config() -> ConfigDict:
  """Small numbers: the longest stage of reinforcement is 24 iterations."""
  return r1(
    stages="base,r1_zero,cold_start,rl1,sft2,r1,student_base,distilled",
    base={"init": ""},
    r1_zero=reinforced(24, peak=2e-5),
    cold_start=tuned(prompts=128, rate=5e-5),
    rl1=reinforced(12, peak=1e-5, language=0.2),
    sft2=tuned(prompts=128, rate=5e-5),
    r1=reinforced(12, peak=1e-5, language=0.2),
    student_base={"init": ""},
    distilled=tuned(prompts=256, rate=1e-4),
    student_rl=reinforced(24, peak=2e-5),
    task="arithmetic",
    evaluation={"problems": 64, "samples": 4, "max_new": MAX_NEW},
    optimizer={"weight_decay": 0.0},
    engine_batch=64,
    save_every=4,
  )
