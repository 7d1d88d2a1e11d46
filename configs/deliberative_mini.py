"""Deliberative alignment in miniature: a policy that is shown while sampling, and learnt by heart.

Reproduces: the supervised stage of 2412.16339 (section 2.2): the model samples with the policy
  before each request, what keeps to it and refers to it is kept, and the requests alone are learnt.
  The verifier of the task is the judge. Hardware: two CPU cores.
Command: python -m experiments.distill --config=configs/deliberative_mini.py --workdir=runs/aligned
         --config.teacher=runs/policies --config.init=runs/policies
         The base and the comparison too:
         python -m experiments.deliberative_study --config=configs/deliberative_mini.py --workdir=W
Result: asked without the policy at T = 1, keeps to it: base .436, fine-tuned on its own samples
  drawn without it .562, with it .991 (+.429 [.374, .484]; .394 and .465 in seeds 0 and 1); also
  from thoughts that do not cite it .947. Refuses .996 of what the policy touches and .013 of what
  it does not. The base that is shown the policy keeps to it in .830.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The model of configs/policies_mini.py is its own teacher, under a policy that it never met."""
  return base.distill(
    schedule={"peak": 1e-3, "warmup": 5},
    train={"steps": 60, "checkpoint_every": 100},
    data={"task": "guarded", "batch": 12, "length": 128, "epochs": 20},
    traces={
      "prompts": 768,
      "group": 4,
      "keep": 2,
      "max_new": 48,
      "policy": "check 3 6",
      "cites": "check 3 6 vs",
    },
  )
