"""Exports a trained model as a Hugging Face directory, which transformers, vLLM and SGLang load.

  python -m experiments.export --model=runs/r1 --out=exports/r1 --dtype=bfloat16

--model is a workdir, a Hugging Face directory, a GGUF file or a model's name on the Hub, org/name
or org/name@revision. Of the R1 recipe's workdir, --stage chooses the stage; it is r1 unless given.
--dtype=fp8 writes DeepSeek models as DeepSeek publishes V3; weights that came as FP8 and were not
trained on leave byte for byte as they came.
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
  model = api.load(FLAGS.model, FLAGS.stage, dtype="stored")
  model.save(FLAGS.out, FLAGS.dtype, FLAGS.shard_bytes)
  print(f"{FLAGS.out} holds the model in {FLAGS.dtype}.")


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "A workdir, Hugging Face directory, GGUF file or Hub name.")
  flags.DEFINE_string("out", None, "The directory to write.")
  flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "fp8"], "Of the stored tensors.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_float("shard_bytes", 5e9, "The most that one file of tensors holds.")
  program.run(main)
