"""A conversation with a model, a line at a time.

  python -m experiments.chat --model=runs/r1

--model is a workdir, a Hugging Face directory, a GGUF file or a model's name on the Hub, org/name
or org/name@revision. The thought is dim on a terminal, and in its tags elsewhere; the model sees
its earlier answers again, but not its thoughts. /new starts over, /quit or the end of the input
ends; Ctrl-C ends a reply. Sampling that is not set is the model's own (generation_config.json), or
R1's where it has none.
"""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import sampling
from deepseek_jax.data.conversation import Conversation, chat_prompt, has_turns
from experiments import program
from experiments.terminal import Terminal

FLAGS = flags.FLAGS
_HOW = ("max_new", "temperature", "top_p", "top_k", "stop", "think")


def main() -> None:
  """Runs the conversation of the flags."""
  if not FLAGS.model:
    raise ConfigError("--model is missing; give --model=DIR.")
  model = api.load(FLAGS.model, FLAGS.stage)
  require(model.tokenizer is not None, f"{FLAGS.model} has no tokenizer to talk with.")
  assert model.tokenizer is not None
  if FLAGS.system and has_turns(model.tokenizer):  # a template that refuses it does so at once
    told = {"role": "system", "content": FLAGS.system}
    chat_prompt(model.tokenizer, [told, {"role": "user", "content": "?"}], FLAGS.think)
  terminal = Terminal()
  if not has_turns(model.tokenizer):
    terminal.note("this tokenizer has no form for conversations: each line is asked alone")
  talk(model, terminal, Conversation(FLAGS.system))


def talk(model: api.Model, terminal: Terminal, conversation: Conversation) -> None:
  """Answers every line until the last."""
  how = sampling(model.tokenizer, **{name: FLAGS[name].value for name in _HOW})
  model.sampling(*(how[name] for name in _HOW[:4]))  # what is wrong with it is said at once
  for turn, line in enumerate(_lines()):
    if line == "/quit":
      return
    if line == "/new":
      conversation.clear()
      terminal.note("a new conversation")
      continue
    conversation.ask(line)
    try:
      stream = model.stream(conversation.messages, seed=FLAGS.seed + turn, **how)
      conversation.answer(terminal.show(stream).answer)
    except (ConfigError, KeyboardInterrupt) as error:
      conversation.turns.pop()  # as if it had not been asked
      terminal.end(str(error) or "interrupted")


def _lines() -> Iterator[str]:
  """Lines that say something; on a terminal they are asked for, and can be edited."""
  if sys.stdin.isatty():
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401  # which input() then uses
  while True:
    try:
      line = input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
      return
    except UnicodeDecodeError as error:
      raise ConfigError("the input is not text in UTF-8.") from error
    if line:
      yield line


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "A workdir, Hugging Face directory, GGUF file or Hub name.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_string("system", "", "What the model is told before the conversation.")
  flags.DEFINE_bool("think", None, "Begin with a thought, or without; else the template decides.")
  flags.DEFINE_integer("max_new", 4096, "Tokens of a reply at most.")
  flags.DEFINE_float("temperature", None, "0 is greedy; by default the model's own.")
  flags.DEFINE_float("top_p", None, "Sample from the smallest set of tokens of this probability.")
  flags.DEFINE_integer("top_k", None, "Sample from so many likeliest tokens; 0 is all.")
  flags.DEFINE_multi_string("stop", [], "End before this text; may be given several times.")
  flags.DEFINE_integer("seed", 0, "Of the sampling; each reply adds one.")
  program.run(main)
