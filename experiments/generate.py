"""Completes a prompt.

  python -m experiments.generate --model=runs/r1 --prompt="make 8 from 3 7 2 4 ?"

--model is a workdir or a Hugging Face directory. Greedy unless --temperature is set. --json prints
one object with the prompt, the completion and how it was sampled.
"""

import json
from typing import Any

from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the generation of the flags."""
  for name in ("model", "prompt"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is missing; give --model=DIR --prompt=TEXT.")
  sampling: dict[str, Any] = {
    name: FLAGS[name].value for name in ("max_new", "temperature", "top_p", "seed")
  }
  completion = api.load(FLAGS.model, FLAGS.stage).generate(FLAGS.prompt, **sampling)
  if FLAGS.json:
    record = {"prompt": FLAGS.prompt, "completion": completion, **sampling}
    completion = json.dumps(record, ensure_ascii=False)
  print(completion)


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "The workdir or Hugging Face directory of the model.")
  flags.DEFINE_string("prompt", None, "The text to complete.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_integer("max_new", 128, "Tokens at most.")
  flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
  flags.DEFINE_float("top_p", 1.0, "Sample from the smallest set of tokens of this probability.")
  flags.DEFINE_integer("seed", 0, "Of the sampling.")
  flags.DEFINE_bool("json", False, "Print one JSON object.")
  program.run(main)
