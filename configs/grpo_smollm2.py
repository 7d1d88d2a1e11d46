"""Reinforcement of a real model, SmolLM2-135M-Instruct, behind its first fine-tuning.

Reproduces: the sanity check of reinforcement by a verifier, on problems that the start model solves
  now and then (`--preflight_keep` chooses them): those are to be learnt, and problems never seen to
  gain. Tokenizer, turns and end tokens are the model's own. Hardware: two CPU cores.
Command: python -m experiments.grpo --config=configs/grpo_smollm2.py --config.init=runs/smollm2_sft
         --preflight --preflight_prompts=128 --preflight_keep=runs/chosen.jsonl
         python -m experiments.grpo --config=configs/grpo_smollm2.py --config.init=runs/smollm2_sft
         --config.task=chosen:runs/chosen.jsonl --workdir=runs/smollm2_grpo
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Eight prompts with eight samples each, one update of them; a group shares its prompt."""
  return base.grpo(
    task="arithmetic",
    train={"steps": 60, "checkpoint_every": 20},
    rl={
      "rollout": {
        "prompts": 8,
        "group": 8,
        "max_new": 64,
        "updates": 1,
        "rows": 4,
        "width": 320,
        "share_prompts": True,
      },
      "peak": 1e-5,
      "warmup": 3,
      "final": 0.5,
    },
    engine_batch=64,
    evaluation={"every": 1000, "problems": 64, "samples": 8},
  )
