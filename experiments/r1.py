"""The whole R1 recipe: base, R1-Zero, cold start, RL, second SFT, R1, and two students.

  python -m experiments.r1 --config=configs/r1_mini.py --workdir=runs/r1

The same command goes on where a run was cut short. See configs/r1_mini.py for what comes out.
`--config.base.init=MODEL` begins with a model from outside, and so for any stage; `--config.stages=
base,r1_zero` leaves the others out; a stage's `start` and `source` may be other stages.

With --preflight nothing is trained: every stage of reinforcement still to come is tried with the
model that it will begin with, as experiments.grpo --preflight does; of those whose start is not
trained yet only the memory is looked at. --preflight_prompts=N tries N problems of each, not those
of two iterations; --preflight_out=FILE keeps the figures as JSON. The status is 1 if anything is
red.
"""

import sys
from pathlib import Path

from absl import flags

from deepseek_jax.evaluate.results import write_text
from deepseek_jax.paths import local_path
from deepseek_jax.recipe.config import R1Config
from deepseek_jax.recipe.job import FREE, r1_config, run_r1
from deepseek_jax.recipe.preflight import judge_stages
from deepseek_jax.recipe.run import Run
from deepseek_jax.rl.preflight.verdict import as_json
from deepseek_jax.train.workdir import check_workdir
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the job of the flags, or its preflight."""
  config, workdir = program.training_config()
  if FLAGS.preflight:
    _preflight(r1_config(config), local_path(workdir).absolute())
    return
  program.refuse_preflight_flags()
  run_r1(r1_config(config), workdir)


def _preflight(config: R1Config, directory: Path) -> None:
  """Tries the stages of a run, and ends with the status of what is found."""
  out, found = program.output_file("preflight_out"), {}
  check_workdir(directory, config, FREE)
  for stage, verdict in judge_stages(Run(config, directory), FLAGS.preflight_prompts):
    found[stage] = verdict
    print(f"{stage}: {verdict.text()}\n", flush=True)
  if out is not None:
    write_text(out, as_json({stage: verdict.record() for stage, verdict in found.items()}))
  if any(verdict.level == "red" for verdict in found.values()):
    sys.exit(program.RED)


if __name__ == "__main__":
  program.training_flags()
  program.preflight_flags()
  program.verifier_flags()
  program.run(main)
