"""Fine-tuning of the mini V3 on a file of prompts and answers.

Reproduces: the kind of stage that configs/r1_mini.py calls cold start; R1's rate is 5e-5, falling
by a cosine to a tenth (2501.12948), a mini's is higher. Hardware: two CPU cores.
Command: python -m experiments.sft --config=configs/sft_mini.py --workdir=runs/sft
         --config.init=runs/mini --config.data.path=answers.jsonl
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Lines of {"prompt", "text"}, two epochs; the architecture is that of `init`."""
  return base.pretrain(
    schedule={"peak": 1e-3, "warmup": 10, "mtp": (0.1, 0.1)},
    train={"checkpoint_every": 100},
    data={"source": "jsonl", "prompt_field": "prompt", "batch": 12, "length": 160},
  )
