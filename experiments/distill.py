"""Distils a teacher into a student, on the teacher's answers or its logits.

  python -m experiments.distill --config=configs/distill_mini.py --workdir=runs/student \
      --config.teacher=runs/rl --config.init=runs/student_base

The same command goes on from the workdir's newest checkpoint. Teacher and --config.init are
workdirs or Hugging Face directories; --config.data.task=package.module:name takes problems of your
own, --config.mix=1 the logits, --config.lora.rank=16 trains adapters of the student alone.
"""

from deepseek_jax.rl.distillation import distill_job, run_distill
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  run_distill(distill_job(config), workdir)


if __name__ == "__main__":
  program.training_flags()
  program.verifier_flags()
  program.run(main)
