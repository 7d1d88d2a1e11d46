"""DeepSeek-R1 as published (2501.12948, figure 2, the supplement's settings), without its students.

Reproduces: R1-Zero as configs/grpo_r1_zero.py has it; a cold start from its filtered samples;
  reinforcement with the language's share added to the reward; rejection sampling and two epochs on
  the base (5e-5, cosine to a tenth, batch 128, 32,768 tokens), and a last reinforcement at
  temperature 0.7, 1,700 updates. Of R1-Zero the longer limit behind update 8,200 (65,536 tokens) is
  not here. Not published, and chosen here: the clip of R1-Zero, the size of the cold start
  (thousands), the first reinforcement's updates, prompts and samples behind the 600K. General data
  (200K of 800K) and the preference reward, which R1 had in the last 400 updates only, are yours:
  --config.sft2.general.path=FILE --config.sft2.general.share=0.22
  --config.r1.rl.rollout.reward.learned.model=W --config.r1.rl.rollout.reward.learned.weight=1
  --config.r1.task=MIXTURE; and so are traces written by people: --config.cold_start.traces.path.
Hardware: R1 took 512 H800 for about 147K GPU-hours: R1-Zero 101K, the data for SFT 5K, R1 41K. The
  mesh here is for 2048 devices.
Command: python -m experiments.r1 --config=configs/r1_671b.py --workdir=W
         --config.task=package.module:name --config.price_per_device_hour=2
Result: not run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.r1_base import r1

CONTEXT = 32_768
UPDATES = 16  # of 32 questions and their samples, of one rollout


def reinforced(updates: int, reward: dict[str, float], **changes: Any) -> dict[str, Any]:
  """A stage of reinforcement: 512 questions x 16 samples a rollout; `changes` are its own."""
  rollout = {
    "prompts": 512,
    "group": 16,
    "max_new": CONTEXT,
    "updates": UPDATES,
    "rows": 2048,
    "width": CONTEXT + 2048,
    "reward": reward,
    "advantage": {"normalisation": "sequence"},
    **changes,
  }
  return {
    "iterations": updates // UPDATES,
    "rl": {
      "rollout": rollout,
      "ratio_level": "sequence_sum",
      "clip_low": 10.0,
      "clip_high": 10.0,
      "kl_weight": 1e-3,
      "reference_every": 400,
      "peak": 3e-6,
      "final": 1.0,
    },
  }


def tuned(prompts: int, group: int, keep: int) -> dict[str, Any]:
  """Two epochs on kept samples, 5e-5 to a tenth of that."""
  samples = {"prompts": prompts, "group": group, "keep": keep, "max_new": CONTEXT - 2048}
  return {"samples": samples, "epochs": 2, "batch": 128, "length": CONTEXT, "rate": 5e-5}


def get_config() -> ConfigDict:
  """V3-Base comes from the Hub; name a directory of yours with --config.base.init."""
  reasoning = {"correct": 1.0, "format": 1.0, "language": 1.0}
  return r1(
    base={"init": "deepseek-ai/DeepSeek-V3-Base"},
    r1_zero=reinforced(10_400, {"correct": 1.0, "format": 1.0}, template="r1_zero"),
    cold_start=tuned(prompts=8192, group=4, keep=1),
    rl1=reinforced(1600, reasoning),
    sft2=tuned(prompts=160_000, group=16, keep=4),
    r1=reinforced(1700, reasoning, temperature=0.7),
    student_base=None,
    distilled=None,
    student_rl=None,
    evaluation={"problems": 512, "samples": 16, "max_new": CONTEXT},
    optimizer={"moment_dtype": "bfloat16"},
    compute={"dtype": "bfloat16", "remat": "full"},
    mesh={"fsdp": 2, "expert": 64, "tensor": 16},
    engine_batch=8192,
    save_every=5,
  )
