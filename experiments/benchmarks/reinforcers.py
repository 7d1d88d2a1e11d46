"""Contenders of the reinforcement benchmark: whole GRPO steps, sampling and updating, from one
checkpoint.

Both sample the same number of tokens after the same prompts, at temperature 1 and never ending
early, and make one clipped AdamW update of them without a KL term. Tokens are words like `w17`, so
that neither depends on what a checkpoint's own tokenizer makes of a prompt.
"""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.tasks.task import Problem, Score, Split

LEARNING_RATE, CLIP_NORM = 1e-6, 1.0
_FIRST_WORD = 10  # tokens below may be control tokens


class Seconds(NamedTuple):
  """Of one step or several."""

  whole: float
  sampling: float | None = None  # where the contender can tell
  updating: float | None = None


Turn = Callable[[int], Seconds]


@dataclasses.dataclass(frozen=True)
class Lesson:
  """What is sampled and learnt from in a step."""

  directory: str
  vocab: int
  prompts: tuple[int, ...] = (28, 40)  # tokens of each
  group: int = 8
  new: int = 64

  def texts(self) -> list[str]:
    """The prompts, the same for every contender."""
    rng = np.random.default_rng(0)
    return [_text(rng.integers(_FIRST_WORD, self.vocab, n).tolist()) for n in self.prompts]


def _text(ids: Sequence[int]) -> str:
  return " ".join(f"w{i}" for i in ids)


def reward(text: str) -> float:
  """The share of words with an even number: nothing to learn, but never the same for a group."""
  return float(np.mean([int(word[1:]) % 2 == 0 for word in text.split()]))


@dataclasses.dataclass(frozen=True)
class _Words:
  """A tokenizer of `w0`, `w1`...; nothing a model of `vocab_size` samples ends its text."""

  vocab_size: int
  pad_id: int = 0
  bos_id: int | None = None

  @property
  def eos_id(self) -> int:
    return self.vocab_size

  def encode(self, text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]

  def decode(self, ids: Sequence[int]) -> str:
    return _text(ids)

  def id_of(self, token: str) -> int | None:
    return None

  def save(self, directory: Any) -> None:
    raise NotImplementedError("a benchmark keeps nothing")


@dataclasses.dataclass(frozen=True)
class _Prompts:
  """The lesson as a task."""

  texts: list[str]
  name: str = "words"

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    text = self.texts[index % len(self.texts)]
    return Problem(prompt=text, task=self.name, key=text)

  def score(self, problem: Problem, text: str) -> Score:
    return Score(correct=reward(text), format=1.0, language=1.0)


def deepseek_jax_turn(lesson: Lesson) -> Turn:
  """The very stage of `experiments.grpo`: its feed samples, its step updates."""
  import jax

  from deepseek_jax import api
  from deepseek_jax.decode.engine import SlotEngine
  from deepseek_jax.rl.advantages import AdvantageConfig
  from deepseek_jax.rl.rollout import RolloutConfig
  from deepseek_jax.rl.trainer import Reinforcement, RLConfig, start
  from deepseek_jax.train import grpo
  from deepseek_jax.train.loop import Position
  from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer

  loaded = api.load(lesson.directory)
  model, samples = loaded.transformer, len(lesson.prompts) * lesson.group
  tx = make_optimizer(OptimizerConfig(weight_decay=0.0, clip_norm=CLIP_NORM))
  rollout = RolloutConfig(
    prompts=len(lesson.prompts), group=lesson.group, max_new=lesson.new, updates=1,
    rows=len(lesson.prompts), width=max(lesson.prompts) + lesson.group * (lesson.new + 1),
    share_prompts=True,  # a row each
    advantage=AdvantageConfig(truncated="keep"),  # which all are
  )  # fmt: skip
  config = RLConfig(rollout, peak=LEARNING_RATE, final=1.0)
  stage = Reinforcement(
    update=grpo.make_step(model, tx, grpo.GRPOConfig()),
    score=grpo.make_scorer(model, grpo.GRPOConfig()),
    engine=SlotEngine(model, samples),
    task=_Prompts(lesson.texts()),
    tokenizer=_Words(lesson.vocab),
    config=config,
    iterations=1,
    seed=0,
  )
  state, iteration = start(loaded.weights, tx, config), 0
  del loaded

  def turn(steps: int) -> Seconds:
    nonlocal state, iteration
    sampling, began = 0.0, time.perf_counter()
    for _ in range(steps):
      before = time.perf_counter()
      fed = stage.feed(Position(iteration), state)
      sampling += time.perf_counter() - before
      require(
        bool(fed.batch[1].updates),
        f"{lesson.directory} samples the same rewards throughout each group, so that nothing is "
        "learnt; name another --model.",
      )
      state, _ = stage.step(state, fed.batch, fed.knobs)
      jax.block_until_ready(state)
      iteration += 1
    whole = time.perf_counter() - began
    return Seconds(whole, sampling, whole - sampling)

  return turn


def trl_turn(lesson: Lesson) -> Turn:
  """TRL's GRPOTrainer, in a thread that its callbacks hold between two steps."""
  import datasets
  import torch
  import transformers
  import trl

  model = transformers.AutoModelForCausalLM.from_pretrained(lesson.directory, dtype=torch.float32)
  model.generation_config.eos_token_id = None
  count = len(lesson.prompts) * lesson.group
  gate = _Gate()

  class Held(transformers.TrainerCallback):
    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
      gate.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
      gate.end()

  def scored(completions: list[Any], **_: Any) -> list[float | None]:
    return [reward(text) for text in completions]

  trainer = trl.GRPOTrainer(
    model=model,
    reward_funcs=scored,
    args=trl.GRPOConfig(
      output_dir=tempfile.gettempdir(), max_steps=10**6, per_device_train_batch_size=count,
      num_generations=lesson.group, steps_per_generation=1, max_completion_length=lesson.new,
      temperature=1.0, beta=0.0, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
      weight_decay=0.0, max_grad_norm=CLIP_NORM, gradient_checkpointing=False, use_cpu=True,
      bf16=False, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
      shuffle_dataset=False, dataloader_pin_memory=False,
    ),
    train_dataset=datasets.Dataset.from_dict({"prompt": lesson.texts()}),
    processing_class=_words_of_transformers(lesson.vocab),
    callbacks=[Held()],
  )  # fmt: skip
  threading.Thread(target=gate.guard(trainer.train), daemon=True).start()
  return gate.turn


class _Gate:
  """Lets a loop in another thread go so many steps at a time."""

  def __init__(self) -> None:
    self._allowed, self._done = threading.Semaphore(0), threading.Semaphore(0)
    self._error: BaseException | None = None

  def begin(self) -> None:
    """Waits, in the loop, until the next step may begin."""
    self._allowed.acquire()

  def end(self) -> None:
    """Tells, from the loop, that a step is over."""
    self._done.release()

  def guard(self, run: Callable[[], Any]) -> Callable[[], None]:
    """`run`, whose failure ends a turn."""

    def guarded() -> None:
      try:
        run()
      except BaseException as error:
        self._error = error
        self._done.release()

    return guarded

  def turn(self, steps: int) -> Seconds:
    """So many steps."""
    began = time.perf_counter()
    for _ in range(steps):
      self._allowed.release()
      self._done.acquire()
      if self._error is not None:
        raise self._error
    return Seconds(time.perf_counter() - began)


def _words_of_transformers(vocab: int) -> Any:
  """`_Words` for transformers."""
  import tokenizers
  import transformers

  words = {f"w{i}": i for i in range(vocab)}
  core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
  core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="<end>", pad_token="w0", unk_token="w0"
  )


CONTENDERS: dict[str, Callable[[Lesson], Turn]] = {
  "deepseek_jax": deepseek_jax_turn,
  "trl": trl_turn,
}
