"""A trained reward model as a scorer: prompts and answers in, one number each out.

  scorer = load_reward_model("runs/reward")
  reward_N = scorer(["make 8 from 3 7 2 ?"], ["<think> ... </answer>"])

Rewards are logits: differences of two are log-odds of being preferred, and sigmoid(r) is the
probability of label 1 where the model learnt labels. R1 judges helpfulness by the final summary
alone, which is `conversation.without_thought(text)`, and harmlessness by the whole text
(2501.12948, the second RL stage): what is handed in is what is judged.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import jax
import numpy as np

from deepseek_jax.by_name import model_path
from deepseek_jax.config import ComputeConfig, ConfigError, require
from deepseek_jax.data.conversation import Message
from deepseek_jax.data.messages import read_messages
from deepseek_jax.data.preference_batches import lay_out, row_width
from deepseek_jax.data.preferences import text_tokens
from deepseek_jax.data.records import RecordError, whole_text
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.model.reward import has_head
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.sharding import row_devices, shard_batch
from deepseek_jax.train.reward_model import make_scorer
from deepseek_jax.train.start import load_stored
from deepseek_jax.train.workdir import read_config
from deepseek_jax.types import Weights

_TOKENS = 8192  # computed at a time, padding included


@dataclasses.dataclass(frozen=True, eq=False)
class RewardModel:
  """A reward model with its tokenizer, and the form in which it was taught to read prompts."""

  model: Transformer
  weights: Weights
  tokenizer: Tokenizer
  template: str = "plain"

  def __call__(
    self, prompts: Sequence[str | Sequence[Message]], texts: Sequence[str]
  ) -> np.ndarray:
    """Float32 rewards [N] of answers to prompts, each a text or a list of messages.

    An answer is read as in training, with one end token behind it, also where it was cut off.

    Raises:
      ConfigError: their numbers differ, the tokenizer cannot read one, or one is longer than the
        model's context.
    """
    require(
      not isinstance(prompts, str) and not isinstance(texts, str) and len(prompts) == len(texts),
      f"there are {len(prompts)} prompts and {len(texts)} texts; give a list of each, a text to "
      "every prompt.",
    )
    rows = []
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
      try:
        rows.append(self.tokens(prompt, text))
      except RecordError as error:
        raise ConfigError(f"prompt {i} {error}") from error
    return self.score_tokens(rows)

  @property
  def digest(self) -> str:
    """SHA-256 of what it computes with: its shape, its form of prompts, and every weight."""
    found = hashlib.sha256(repr((self.model.config, self.template)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.weights):
      array = np.ascontiguousarray(leaf)
      found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
      found.update(array.view(np.uint8).data)
    return found.hexdigest()

  def tokens(self, prompt: str | Sequence[Message], text: str) -> list[int]:
    """Prompt, answer and end as the model reads them; ConfigError if its tokenizer cannot."""
    question = prompt if isinstance(prompt, str) else read_messages(prompt, "prompt")
    return text_tokens(self.tokenizer, question, whole_text(text), self.template)

  def score_tokens(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Float32 rewards [N] of whole texts in tokens, with prompt and end.

    Texts of about one length are computed together; widths and numbers of rows go by doubling, so
    that few shapes are compiled. Beside which others a text stands changes its reward by rounding
    at most.
    """
    context = self.model.config.max_context
    reward_N = np.zeros(len(texts), np.float32)
    by_width: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
      require(
        0 < len(text) <= context,
        f"text {i} has {len(text)} tokens; the reward model reads 1 to {context}.",
      )
      by_width.setdefault(row_width(len(text)), []).append(i)
    score, pending = make_scorer(self.model), []
    for width, members in sorted(by_width.items()):
      most = self._rows(max(1, _TOKENS // width))
      for at in range(0, len(members), most):
        part = members[at : at + most]
        rows = min(most, self._rows(len(part)))
        laid = lay_out([texts[i] for i in part], rows, width, self.tokenizer.pad_id)
        names = ("tokens_BT", "positions_BT", "segments_BT")
        placed = shard_batch(self.model.mesh, dict(zip(names, laid, strict=True)))
        pending.append((part, score(self.weights, *(placed[name] for name in names))))
    for part, rewards in pending:
      reward_N[part] = np.asarray(rewards)[: len(part)]
    return reward_N

  def _rows(self, count: int) -> int:
    """The smallest number of rows by doubling that holds `count`, and divides over the mesh."""
    least = row_devices(self.model.mesh)
    return least << (-(-count // least) - 1).bit_length()


def load_reward_model(
  path: str | os.PathLike[str], compute: ComputeConfig | None = None
) -> RewardModel:
  """The reward model of a workdir of experiments.reward_model, on the default device.

  Raises:
    ConfigError: it is no such workdir, or holds no checkpoint yet.
  """
  folder = model_path(path)
  config, weights, tokenizer = load_stored(folder, reward=True)
  require(
    has_head(weights) and tokenizer is not None,
    f"{folder} holds a language model without a reward head; train one with "
    "experiments.reward_model.",
  )
  assert tokenizer is not None
  template = read_config(folder)["data"]["template"]
  model = Transformer(config, compute or ComputeConfig())
  return RewardModel(model, jax.device_put(weights), tokenizer, template)
