"""Pre-trains a model.

  python -m experiments.pretrain --config=configs/pretrain_tiny.py --workdir=runs/tiny

Any field of the config can be given on the command line: --config.train.steps=10. The same command
goes on from the workdir's newest checkpoint. --config.init=DIR starts from the weights of another
workdir or of a Hugging Face directory.

Over several processes, each with devices of its own, of which config.mesh takes all: the same
command on each, with --coordinator=HOST:PORT --processes=N --process=I, or --coordinator=auto under
a scheduler. The workdir must be the same directory for all. The batch and its records are the same
whatever N; with --config.data.shards=S a process reads only the documents of its rows. Where one is
lost or hangs, the others say so and end with status 3; the same command goes on, also on fewer.
"""

from deepseek_jax.evaluate.text_job import text_monitor
from deepseek_jax.train.pretrain_job import pretrain_job, run_pretrain
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  job = pretrain_job(config)
  run_pretrain(job, workdir, monitor=text_monitor(job, "Pre-training"))


if __name__ == "__main__":
  program.training_flags()
  program.process_flags()
  program.verifier_flags()
  program.run(main)
