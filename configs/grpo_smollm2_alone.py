"""Reinforcement of a real model alone: SmolLM2-135M-Instruct without any fine-tuning before it.

Reproduces: the question of R1-Zero (2501.12948, section 2.2) put to a small model that was already
  instructed: what does reinforcement find where nobody showed the form of an answer? The right
  number is rewarded wherever it is said (`said`), tags and all twice as much. Hardware: two CPU
  cores.
Command: python -m experiments.grpo --config=configs/grpo_smollm2_alone.py --preflight
         --preflight_prompts=128 --preflight_keep=runs/chosen_alone.jsonl --config.init=MODEL
         python -m experiments.grpo --config=configs/grpo_smollm2_alone.py --config.init=MODEL
         --config.task=chosen:runs/chosen_alone.jsonl --workdir=runs/smollm2_alone
         with SmolLM2-135M-Instruct.Q4_1.gguf for MODEL
Result: it finds no tags: 0 of 1024 samples before, 0 of 512 after, so strictly it gains nothing. By
  the last number said, of 64 held-out questions at T = 1 .105 [.074, .148] before and .391 [.284,
  .509] after; pass@8 .438 and .453: it sharpens what was there. 17 minutes, 28 chosen problems, 22
  of them comparisons, and of these it learns to please the reward: "12 is larger than 71." ends in
  the larger number, and is false. `said` reads no more than the last number.
"""

from ml_collections import ConfigDict

from configs import grpo_smollm2


def get_config() -> ConfigDict:
  """As behind the fine-tuning, with shorter answers, which are rewarded in whatever form."""
  config = grpo_smollm2.get_config()
  config.rl.rollout.update(max_new=32, width=320, reward={"said": 0.5})
  return config
