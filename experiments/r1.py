"""The whole R1 recipe: base, R1-Zero, cold start, RL, second SFT, R1, and two students.

  python -m experiments.r1 --config=configs/r1_mini.py --workdir=runs/r1

The same command goes on where a run was cut short. See configs/r1_mini.py for what comes out.
`--config.base.init=MODEL` begins with a model from outside, and so for any stage; `--config.stages=
base,r1_zero` leaves the others out; a stage's `start` and `source` may be other stages.
"""

from deepseek_jax.recipe.job import r1_config, run_r1
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  run_r1(r1_config(config), workdir)


if __name__ == "__main__":
  program.training_flags()
  program.verifier_flags()
  program.run(main)
