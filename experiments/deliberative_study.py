"""Deliberative alignment against its absence: a policy kept by a model that is not shown it.

  python -m experiments.deliberative_study --config=configs/deliberative_mini.py --workdir=W

For each of --seeds a base is pre-trained (--base is its config) and fine-tuned in three ways from
its own samples, with the same problems, verifier and steps:

  deliberative   as --config says: the policy before each prompt while sampling, not while learning
  uncited        likewise, also from thoughts that do not refer to the policy
  control        from samples drawn without the policy

They are asked held-out sums without the policy, as `base` is; `shown` is the base with the policy
in its prompt. Every run has a workdir below --workdir, where the same command goes on. It prints
shares with intervals over problems, the shares of the single seeds in parentheses, and leaves
results.json.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from deepseek_jax.config import ConfigError, require
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.evaluation import Evaluation, Protocol, evaluate_each
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.paths import local_path
from deepseek_jax.rl.distillation import distill_job, run_distill
from deepseek_jax.tasks.guarded import NAME, Guarded
from deepseek_jax.train.pretrain_job import pretrain_job, run_pretrain
from deepseek_jax.train.start import load_start, open_tokenizer
from deepseek_jax.train.workdir import write_atomically
from experiments import program
from experiments.studies.adherence import Adherence, adherence, gains, record, table

FLAGS = flags.FLAGS
ARMS: dict[str, dict[str, str]] = {  # what differs in `traces`
  "deliberative": {},
  "uncited": {"cites": ""},
  "control": {"cites": "", "policy": ""},
}
PAIRS = [
  *(("deliberative", other) for other in ("base", "control", "uncited", "shown")),
  ("uncited", "control"),  # which differ in the policy's presence alone
]
_OWN_PROBLEMS = 1000  # between the seeds of the base's problems and those that are sampled


def main() -> None:
  """Trains what is not trained yet, and compares."""
  values, workdir = program.training_config()
  directory, seeds = local_path(workdir), _seeds()
  traces, task = values.get("traces", {}), values.get("data", {}).get("task")
  require(task == NAME, f"config.data.task is {task!r}; the study measures {NAME}.")
  require(
    traces.get("policy") == Guarded().policy and bool(traces.get("cites")),
    f"config.traces needs the policy of {NAME}, {Guarded().policy!r}, and cites.",
  )
  runs = []
  for seed in seeds:
    folder = directory / f"seed{seed}"
    train(values, FLAGS.base.to_dict(), folder, seed)
    runs.append(measure(folder, seed))
  report(runs, seeds, directory)


def _seeds() -> list[int]:
  try:
    return [int(seed) for seed in FLAGS.seeds]
  except ValueError as error:
    raise ConfigError(f"--seeds is {','.join(FLAGS.seeds)}; give whole numbers.") from error


def train(values: Mapping[str, Any], base: Mapping[str, Any], folder: Path, seed: int) -> None:
  """Brings the base of a seed and what is made of it to their ends."""
  start = str(folder / "base")
  data = {**base.get("data", {}), "seed": seed}
  run_pretrain(pretrain_job({**base, "seed": seed, "data": data}), start, "base")
  data = {**values.get("data", {}), "seed": seed + _OWN_PROBLEMS}
  for arm, changes in ARMS.items():
    given = {**values, "seed": seed, "data": data, "teacher": start, "init": start}
    given["traces"] = {**values["traces"], **changes}
    run_distill(distill_job(given), folder / arm, arm)


def measure(folder: Path, seed: int) -> dict[str, list[Evaluation]]:
  """Greedy and at T = 1, the models of a seed on the same held-out problems."""
  config, base, _ = load_start(folder / "base")
  tokenizer = open_tokenizer(str(folder / "base" / "tokenizer"))
  engine = SlotEngine(Transformer(config))
  common = {"benchmark": NAME, "problems": FLAGS.problems, "max_new": 48, "seed": seed}
  protocols = [
    Protocol(**common, samples=1, temperature=0.0),
    Protocol(**common, samples=4, temperature=1.0),
  ]

  def ask(weights: Any, task: Guarded) -> list[Evaluation]:
    return evaluate_each(engine, jax.device_put(weights), tokenizer, task, protocols)

  found = {"base": ask(base, Guarded()), "shown": ask(base, Guarded(written=True))}
  return found | {arm: ask(load_start(folder / arm)[1], Guarded()) for arm in ARMS}


def report(
  runs: Sequence[Mapping[str, list[Evaluation]]], seeds: Sequence[int], directory: Path
) -> None:
  """Prints the tables, and writes the shares."""
  result: dict[str, Any] = {"seeds": list(seeds)}
  for i, decoding in enumerate(e.protocol.decoding for e in runs[0]["base"]):
    found = {model: adherence([run[model][i] for run in runs]) for model in runs[0]}
    print(f"\n{decoding}, {_size(found['base'])}, seeds {', '.join(map(str, seeds))}")
    print(table(found), gains(found, PAIRS), sep="\n\n")
    result[decoding] = record(found)
  write_atomically(directory / "results.json", json.dumps(result, indent=1) + "\n")


def _size(one: Adherence) -> str:
  return f"{len(one.touched_P)} held-out sums, {int(one.touched_P.sum())} touched by the policy"


if __name__ == "__main__":
  program.training_flags()
  config_flags.DEFINE_config_file("base", "configs/policies_mini.py", "The base's config.")
  flags.DEFINE_list("seeds", ["0", "1"], "Of the runs.")
  flags.DEFINE_integer("problems", 256, "Held-out sums that each model is asked.")
  program.run(main)
