"""Fine-tunes a model on prompts and answers.

  python -m experiments.sft --config=configs/sft_mini.py --workdir=runs/sft \
      --config.init=runs/mini --config.data.path=answers.jsonl

The same command goes on from the workdir's newest checkpoint. --config.init=M is another workdir, a
Hugging Face directory, a GGUF file or a model's name on the Hub, whose tokenizer and turns are
taken; --config.data.template=plain leaves the turns out. --config.data.text_field=messages learns
the answers of conversations, lists of {"role", "content"} or ShareGPT's {"from", "value"}.
--config.evaluation.every=N asks problems of --config.evaluation.benchmark=NAME|FILE every N steps,
before the first and after the last, with answers of at most --config.evaluation.max_new tokens.
report.html in the workdir has the curves. --config.lora.rank=16 trains adapters of the model (see
model/adapters.py); the workdir names it, and it must stay where it is.

Over several processes as experiments/pretrain.py says.
"""

from deepseek_jax.evaluate.text_job import text_monitor
from deepseek_jax.train.sft import run_sft, sft_job
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  job = sft_job(config)
  run_sft(job, workdir, monitor=text_monitor(job, "Fine-tuning"))


if __name__ == "__main__":
  program.training_flags()
  program.process_flags()
  program.verifier_flags()
  program.run(main)
