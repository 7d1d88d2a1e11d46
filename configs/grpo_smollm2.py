"""Reinforcement of a real model, SmolLM2-135M-Instruct, behind its first fine-tuning.

Reproduces: the sanity check of reinforcement by a verifier, on problems that the start model solves
  now and then (`--preflight_keep` chooses them): those are to be learnt, and problems never seen to
  gain. Tokenizer, turns and end tokens are the model's own. Hardware: two CPU cores.
Command: python -m experiments.grpo --config=configs/grpo_smollm2.py --config.init=runs/smollm2_sft
         --preflight --preflight_prompts=96 --preflight_keep=runs/chosen.jsonl
         python -m experiments.grpo --config=configs/grpo_smollm2.py --config.init=runs/smollm2_sft
         --config.task=chosen:runs/chosen.jsonl --workdir=runs/smollm2_grpo
Result: seed 1: of 43 chosen problems .977 are right afterwards (greedy; .948 at T = 1). Of 64
  held-out questions at T = 1 .277 [.215, .350] before and .596 [.495, .689] after, paired +.318
  [.239, .398]; greedy +.156 [.037, .276]; pass@8 +.062 [-.054, .179]; leniently +.279 [.197, .362].
  50 minutes at 107 GFLOP/s in float32. Seed 0, at peak 2e-5: of 44 chosen problems .955, held out
  +.293 [.201, .385], greedy +.047 [-.074, .168]; more groups end all wrong. Answers grow from 27 to
  34 tokens, for guesses go. Against rewards permuted within groups (`experiments.grpo_study
  --permuted`, seed 0): +.290 [.238, .343] over the base with its own, -.089 [-.131, -.046] with
  those.
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
