"""Exports a trained model as a Hugging Face directory, which transformers loads.

  python -m experiments.export --model=runs/r1 --out=exports/r1 --dtype=bfloat16

--model is a workdir or a Hugging Face directory. Of the R1 recipe's workdir, --stage chooses the
stage; it is r1 unless given.
"""

from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the export of the flags."""
  for name in ("model", "out"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is missing; give --model=WORKDIR --out=DIR.")
  api.load(FLAGS.model, FLAGS.stage).save(FLAGS.out, FLAGS.dtype)
  print(f"{FLAGS.out} holds the model in {FLAGS.dtype}.")


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "The workdir or Hugging Face directory of the model.")
  flags.DEFINE_string("out", None, "The directory to write.")
  flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the stored tensors.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  program.run(main)
