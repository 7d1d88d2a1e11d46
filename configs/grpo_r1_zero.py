"""R1-Zero as published (2501.12948, sections 2.2 and the supplement's settings).

Reproduces: 32 questions x 16 samples a step, rollouts of 8,192 samples cut into 16 updates, rate
3e-6, KL 0.001 with the reference reset every 400 updates, temperature 1, 32,768 tokens (65,536 from
update 8,200 on, which is a second run started by --config.init), 10,400 updates. The clip of
R1-Zero is not published; 10 is that of R1's first reinforcement. Questions and verifier are yours
to give: --config.task. Hardware: as much as holds the 671B model and its optimiser; the mesh here
is for 2048 devices.
Command: python -m experiments.grpo --config=configs/grpo_r1_zero.py --workdir=W
         --config.init=DEEPSEEK_V3_BASE --config.task=package.module:name
         --config.tokenizer=DEEPSEEK_V3_BASE
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """An iteration is a rollout of 512 questions and 16 updates, hence 650 of them."""
  return base.grpo(
    train={"steps": 650, "checkpoint_every": 5},
    rl={
      "rollout": {
        "prompts": 512,
        "group": 16,
        "max_new": 32_768,
        "updates": 16,
        "rows": 2048,
        "width": 34_816,
        "template": "r1_zero",
        "reward": {"correct": 1.0, "format": 1.0},
        "advantage": {"normalisation": "sequence"},
      },
      "ratio_level": "sequence_sum",
      "clip_low": 10.0,
      "clip_high": 10.0,
      "kl_weight": 1e-3,
      "reference_every": 400,
      "peak": 3e-6,
      "final": 1.0,
    },
    optimizer={"moment_dtype": "bfloat16"},
    compute={"dtype": "bfloat16", "remat": "full"},
    mesh={"fsdp": 2, "expert": 64, "tensor": 16},
    engine_batch=8192,
  )
