"""Parts of a reward that a verifier does not give: what length and repetition are worth, and what a
reward model says (`learned_reward.py`).

Sources: soft overlong punishment (DAPO, 2503.14476, equation 13); the cosine reward, and a penalty
for repetition beside it (2502.03373, sections 4.2 and 4.4). The penalty is open-r1's form of it,
one figure for a completion; the paper's is one for each repeated token.
"""

import dataclasses
import math
import re

from deepseek_jax.config import require
from deepseek_jax.rl.rejection import repeated_share

# Scripts without spaces between words: of them a character counts as a word. Thai to Khmer,
# Japanese syllables, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_UNSPACED += "\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


@dataclasses.dataclass(frozen=True)
class OverlongConfig:
  """Soft overlong punishment: its weight, and the tokens below `max_new` over which it grows."""

  weight: float = 0.0
  buffer: int = 16

  def __post_init__(self) -> None:
    _check_weight("overlong", self.weight)
    require(
      self.buffer > 0, f"reward.overlong.buffer is {self.buffer}; it must be a positive number."
    )


@dataclasses.dataclass(frozen=True)
class CosineConfig:
  """The cosine reward: its weight, and its values for answers of no and of `max_new` tokens.

  It knows right from wrong by itself; with it `reward.correct` is rather 0.
  """

  weight: float = 0.0
  right_short: float = 1.0
  right_long: float = 0.5
  wrong_short: float = -1.0
  wrong_long: float = -0.5
  exceeding: float = -1.0  # of an answer that was cut off

  def __post_init__(self) -> None:
    _check_weight("cosine", self.weight)
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      require(
        math.isfinite(value), f"reward.cosine.{field.name} is {value}; it must be a finite number."
      )


@dataclasses.dataclass(frozen=True)
class RepetitionConfig:
  """The penalty for repetition: its weight, which is the largest penalty, and the runs' length."""

  weight: float = 0.0
  ngram: int = 3  # words

  def __post_init__(self) -> None:
    _check_weight("repetition", self.weight)
    require(self.ngram > 0, f"reward.repetition.ngram is {self.ngram}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class LearnedConfig:
  """A reward model's part: its weight, the model, and what of an answer it reads.

  R1 has helpfulness judged by what follows the thought (`answer`) and harmlessness by all of it
  (`text`; 2501.12948, the second RL stage). The reward is the model's logit, as it is. R1 had its
  general prompts judged so, and not those that a rule can judge: `tasks`.
  """

  weight: float = 0.0
  model: str = ""  # a workdir of experiments.reward_model
  reads: str = "text"  # text | answer
  tasks: str = ""  # names, with commas between, of the tasks it judges; the others get 0. "": all

  def __post_init__(self) -> None:
    _check_weight("learned", self.weight)
    require(
      self.reads in ("text", "answer"),
      f"reward.learned.reads is {self.reads!r}; use text or answer.",
    )
    require(
      bool(self.model) == bool(self.weight),
      f"reward.learned.model is {self.model!r} and its weight {self.weight}; set both or neither.",
    )
    require(
      bool(self.weight) or not self.tasks,
      f"reward.learned.tasks is {self.tasks!r}, but no model judges them; set weight and model.",
    )

  def judges(self, task: str) -> bool:
    """Whether problems of a task are among those it judges."""
    return not self.tasks or task in [name.strip() for name in self.tasks.split(",")]


def overlong(length: int, truncated: bool, longest: int, buffer: int) -> float:
  """0 up to `buffer` tokens below `longest`, from there linearly to -1; -1 if cut off."""
  if truncated:
    return -1.0
  return min(0.0, max(-1.0, (longest - buffer - length) / buffer))


def cosine(length: int, right: bool, truncated: bool, longest: int, config: CosineConfig) -> float:
  """Half a cosine from the value at length 0 to that at `longest`; `exceeding` if cut off."""
  if truncated:
    return config.exceeding
  short, long = (
    (config.right_short, config.right_long) if right else (config.wrong_short, config.wrong_long)
  )
  return long + 0.5 * (short - long) * (1.0 + math.cos(math.pi * length / longest))


def repetition(text: str, ngram: int) -> float:
  """Less the share of runs of `ngram` words that occurred before in the text: in (-1, 0]."""
  return -repeated_share(words_of(text), ngram)


def words_of(text: str) -> list[str]:
  """What stands between spaces, in lower case; single characters of scripts without spaces."""
  return _WORDS.findall(text.lower())


def _check_weight(part: str, weight: float) -> None:
  require(
    0 <= weight < math.inf,
    f"reward.{part}.weight is {weight}; it must be a finite number that is not negative.",
  )
