"""Trains a reward model on pairs of answers and on single labels, and measures its accuracy.

  python -m experiments.reward_model --config=configs/reward_mini.py --workdir=runs/reward \
      --config.init=runs/mini

Files have lines of {"prompt", "chosen", "rejected"}, where each may be a text or a list of
messages, or of {"prompt", "response", "label"} with label 1 what is wanted (safe) and 0 what is
not; both may stand in one file: --config.data.source=jsonl --config.data.path=pairs.jsonl, or hf
with a dataset's directory or its name on the Hub. The same command goes on from the workdir's
newest checkpoint. results.json has the accuracy on the held-out prompts, --config.data.heldout of
all. The workdir is opened as a scorer by deepseek_jax.load_reward_model.
"""

from deepseek_jax.rl.reward_job import reward_model_job, run_reward_model
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  run_reward_model(reward_model_job(config), workdir)


if __name__ == "__main__":
  program.training_flags()
  program.run(main)
