"""First fine-tuning of a real model, SmolLM2-135M-Instruct: the form of an answer, and reckoning.

Reproduces: the place of R1's cold start (2501.12948), on the worked solutions of the task
  `arithmetic`, a quarter of which guess and some of which slip. Tokenizer, turns and end tokens are
  the model's own. Hardware: two CPU cores.
Command: python -m experiments.sft --config=configs/sft_smollm2.py --workdir=runs/smollm2_sft
         --config.init=SmolLM2-135M-Instruct.Q4_1.gguf
Result: of 64 held-out questions 0 are right before and .270 [.202, .350] after at T = 1, pass@4
  .594 [.468, .708]; greedy .594 [.468, .708]. 7 minutes of training at 107 GFLOP/s in float32.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """One epoch on 512 solutions, some ten of them a step."""
  return base.pretrain(
    schedule={"peak": 1e-4, "warmup": 5},
    train={"checkpoint_every": 1000},
    data={"task": "arithmetic", "records": 512, "epochs": 1, "batch": 4, "length": 192},
    optimizer={"weight_decay": 0.0},
    evaluation={"every": 1000, "problems": 64, "samples": 4, "max_new": 64, "batch": 64},
  )
