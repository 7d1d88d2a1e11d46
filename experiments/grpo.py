"""Reinforces a model by GRPO against a task's verifier.

  python -m experiments.grpo --config=configs/grpo_mini.py --workdir=runs/rl --config.init=runs/mini

The same command goes on from the workdir's newest checkpoint. --config.init=M is another workdir, a
Hugging Face directory, a GGUF file or a model's name on the Hub; its tokenizer, its way of being
asked and its end tokens come with it. --config.task=package.module:name takes problems and verifier
of your own, which after isolated: judges in processes of its own, as reasoning_gym:DATASET does.
--config.task=code:FILE.jsonl takes programming problems, and runs the programs in a sandbox.
"""

from deepseek_jax.rl.grpo_job import grpo_job, run_grpo
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  run_grpo(grpo_job(config), workdir)


if __name__ == "__main__":
  program.training_flags()
  program.verifier_flags()
  program.run(main)
