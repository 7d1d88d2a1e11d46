"""A dense student of a mini R1, on the teacher's filtered answers.

Reproduces: the stage distilled of configs/r1_mini.py, alone; R1's students learnt from text only
(2501.12948, section 2.4). Hardware: two CPU cores.
Command: python -m experiments.distill --config=configs/distill_mini.py --workdir=runs/student
         --config.teacher=runs/rl --config.init=runs/student_base
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Four right answers a problem are drawn, two kept, and learnt for two epochs."""
  return base.distill(
    schedule={"peak": 2e-3, "warmup": 10},
    train={"checkpoint_every": 100},
    data={"batch": 12, "length": 160},
    traces={"prompts": 1024, "group": 4, "keep": 2, "max_new": 128},
    mix=0.0,
  )
