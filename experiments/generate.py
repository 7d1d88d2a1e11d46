"""Answers a prompt.

  python -m experiments.generate --model=runs/r1 --prompt="make 8 from 3 7 2 4 ?"

--model is a workdir, a Hugging Face directory, a GGUF file or a model's name on the Hub, org/name
or org/name@revision. Where its tokenizer has a form for conversations the prompt is a user's
message (--nochat: it is gone on with as it is). Greedy unless --temperature is set. The answer
streams; a thought is dim on a terminal, and in its tags elsewhere. --json prints one object
instead, with the thought, the answer, how it ended and how fast it came.

--memory prints the bytes of weights and cache and needs no weights: --model may also be the name of
a preset, such as v3 or v2_lite.
"""

import json
from typing import Any

from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError, ModelConfig, from_dict
from deepseek_jax.data.conversation import Message, has_turns
from deepseek_jax.paths import local_path
from deepseek_jax.plan.memory import memory_table
from deepseek_jax.presets import PRESETS, preset
from deepseek_jax.recipe.graph import GRAPH
from deepseek_jax.train.start import read_architecture
from deepseek_jax.train.workdir import read_config
from experiments import program
from experiments.terminal import Terminal

FLAGS = flags.FLAGS
_MEMORY = ("length", "batch", "cache_dtype")
_SAMPLING = ("max_new", "temperature", "top_p", "top_k", "seed")


def main() -> None:
  """Runs the generation of the flags."""
  for name in ("model",) if FLAGS.memory else ("model", "prompt"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is missing; give --model=DIR --prompt=TEXT.")
  if FLAGS.memory:
    name, config = architecture(FLAGS.model, FLAGS.stage)
    print(memory_table(name, config, _length(config), FLAGS.batch, FLAGS.cache_dtype))
    return
  for name in _MEMORY:
    if FLAGS[name].present:
      raise ConfigError(f"--{name} is for --memory; leave it out, or add --memory.")
  model = api.load(FLAGS.model, FLAGS.stage)
  sampling: dict[str, Any] = {name: FLAGS[name].value for name in _SAMPLING}
  stream = model.stream(_prompt(model), stop=FLAGS.stop, think=FLAGS.think, **sampling)
  if not FLAGS.json:
    Terminal().show(stream)
    return
  record = {"prompt": FLAGS.prompt, **stream.reply.record(), **sampling, "stop": FLAGS.stop}
  print(json.dumps(record, ensure_ascii=False))


def _length(config: ModelConfig) -> int:
  """The length of a request that --memory is asked for."""
  length = config.max_context if FLAGS.length is None else FLAGS.length
  if not 0 < length <= config.max_context:
    raise ConfigError(
      f"--length is {length}; give 1 to {config.max_context}, which is the model's context."
    )
  return length


def _prompt(model: api.Model) -> str | list[Message]:
  """The prompt as a user's message, or as it is."""
  chat = FLAGS.chat
  if chat is None:
    chat = FLAGS.think is not None or (model.tokenizer is not None and has_turns(model.tokenizer))
  if not chat and FLAGS.think is not None:
    raise ConfigError("--think is for conversations; leave out --nochat.")
  return [{"role": "user", "content": FLAGS.prompt}] if chat else FLAGS.prompt


def architecture(model: str, stage: str = "") -> tuple[str, ModelConfig]:
  """Name and architecture of a directory, a file, or the first preset whose name begins so."""
  path = local_path(model)
  if not path.exists() and "/" not in model:
    found = [name for name in PRESETS if name == model or name.startswith(f"{model}_")]
    if not found:
      raise ConfigError(f"--model {model} is no directory, and no preset of {', '.join(PRESETS)}.")
    return found[0], preset(found[0])
  values = read_config(path) if (path / "config.json").is_file() else {}
  if "student" not in values:
    return model, read_architecture(path)
  named = {node.stage: node.model for node in GRAPH}
  if (stage or "r1") not in named:
    raise ConfigError(f"stage {stage!r} is none of {', '.join(named)}.")
  kind = named[stage or "r1"]
  return f"{model}: {kind}", from_dict(ModelConfig, values[kind], f"{model}: {kind}")


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "A workdir, Hugging Face directory, GGUF file or Hub name.")
  flags.DEFINE_string("prompt", None, "The text to answer, or to complete.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_bool("chat", None, "Put the prompt as a user's message; by default if it can be.")
  flags.DEFINE_bool("think", None, "Begin with a thought, or without; else the template decides.")
  flags.DEFINE_integer("max_new", 128, "Tokens at most.")
  flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
  flags.DEFINE_float("top_p", 1.0, "Sample from the smallest set of tokens of this probability.")
  flags.DEFINE_integer("top_k", 0, "Sample from so many likeliest tokens; 0 is all.")
  flags.DEFINE_multi_string("stop", [], "End before this text; may be given several times.")
  flags.DEFINE_integer("seed", 0, "Of the sampling.")
  flags.DEFINE_bool("json", False, "Print one JSON object.")
  flags.DEFINE_bool("memory", False, "Print the bytes of weights and cache.")
  flags.DEFINE_integer("length", None, "Tokens of a request, for --memory; else the context.")
  flags.DEFINE_integer("batch", 1, "Requests at once, for --memory.")
  flags.DEFINE_enum("cache_dtype", "bfloat16", ["bfloat16", "float32"], "For --memory.")
  program.run(main)
