"""Fine-tunes a model on prompts and answers.

  python -m experiments.sft --config=configs/sft_mini.py --workdir=runs/sft \
      --config.init=runs/mini --config.data.path=answers.jsonl

The same command goes on from the workdir's newest checkpoint. --config.init=M is another workdir, a
Hugging Face directory, a GGUF file or a model's name on the Hub, whose tokenizer and turns are
taken; --config.data.template=plain leaves the turns out. --config.lora.rank=16 trains adapters of
it (see model/adapters.py); the workdir names it, and it must stay where it is.
"""

from deepseek_jax.train.sft import run_sft, sft_job
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  run_sft(sft_job(config), workdir)


if __name__ == "__main__":
  program.training_flags()
  program.run(main)
