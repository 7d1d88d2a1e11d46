"""A reward model in the place of a judge: what `rollout.reward.learned` names, loaded."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from deepseek_jax.config import ConfigError, require
from deepseek_jax.rl.reward_model import RewardModel, load_reward_model
from deepseek_jax.rl.reward_parts import LearnedConfig
from deepseek_jax.rl.rollout import RolloutConfig
from deepseek_jax.tasks.mixture import Mixture
from deepseek_jax.tasks.prompts import Prompts
from deepseek_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class LearnedReward:
  """A `rewards.Judge`: what is sampled may be any text, and none ends a run.

  A text that the model cannot read, as it is too long or its tokenizer lacks a character, gets the
  least reward of those sampled with it, and is told.
  """

  model: RewardModel

  def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Rewards [N] of answers to prompts."""
    rows: dict[int, list[int]] = {}
    why = ""
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
      try:
        rows[i] = self._tokens(prompt, text)
      except ConfigError as error:
        why = why or str(error)
    reward_N = np.zeros(len(texts), np.float32)
    if rows:
      scores = self.model.score_tokens(list(rows.values()))
      reward_N[:] = scores.min()
      reward_N[list(rows)] = scores
    if why:
      print(
        f"the reward model could not read {len(texts) - len(rows)} of {len(texts)} completions, "
        f"which get the least reward of the others: {why}",
        file=sys.stderr,
        flush=True,
      )
    return reward_N

  def _tokens(self, prompt: str, text: str) -> list[int]:
    tokens, context = self.model.tokens(prompt, text), self.model.model.config.max_context
    require(len(tokens) <= context, f"it has {len(tokens)} tokens, more than {context}.")
    return tokens


def require_tasks(config: LearnedConfig, task: Task) -> None:
  """ConfigError unless the tasks that a reward model is to judge are drawn from."""
  parts = task.tasks if isinstance(task, Mixture) else (task,)
  names = [one.name for one in parts]
  unjudged = [one.name for one in parts if isinstance(one, Prompts)]
  require(
    config.weight > 0 or not unjudged,
    f"nothing judges the answers to {', '.join(unjudged)}; give a reward model, "
    "rollout.reward.learned.model and its weight.",
  )
  missing = [name.strip() for name in config.tasks.split(",") if name.strip() not in names]
  require(
    not config.tasks or not missing,
    f"rollout.reward.learned.tasks names {', '.join(missing)}, but the problems are of "
    f"{', '.join(names)}.",
  )


def open_judge(config: RolloutConfig) -> LearnedReward | None:
  """The reward model of a rollout's reward; None where that has none.

  ConfigError if it is no reward model, or its context is shorter than the rollout's rows.
  """
  learned = config.reward.learned
  if not learned.weight:
    return None
  model = load_reward_model(learned.model)
  context = model.model.config.max_context
  require(
    config.width < context,  # one more token may end a text that was cut off
    f"rollout.width is {config.width}; the reward model in {learned.model} reads at most "
    f"{context - 1} tokens. Lower it, or name another reward.learned.model.",
  )
  return LearnedReward(model)
