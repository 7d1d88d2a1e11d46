"""Measures us beside others, in one run on one machine.

  python -m experiments.bench --suite=train --against=transformers
  python -m experiments.bench --suite=experts
  python -m experiments.bench --suite=decode --against=transformers [--model=M]
  python -m experiments.bench --suite=batching
  python -m experiments.bench --suite=speculative --model=runs/draft
  python -m experiments.bench --suite=first_run
  python -m experiments.bench --suite=grpo --against=trl [--model=M]
  python -m experiments.bench --suite=judges [--cases=DIR]
  python -m experiments.bench --suite=sandbox

train: one full training step of a preset, in float32, against transformers with torch; the median
of interleaved pairs, and what our step spends its time on. experts: what a token costs with 32 and
with 128 experts at the same top-k, in rows of 256 and then of 1,024 tokens (rematerialised, for
both contenders stay in memory). The latter fit into 24 GB only where freed memory goes back at
once: GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in front of the command sees to that. decode: greedy
tokens per second on one checkpoint, with one row and with sixteen: that of --model, which may be a
Hugging Face directory, a GGUF file or a workdir, else the preset with random weights. batching: 64
requests of very different lengths in 16 slots, continuously and in static batches, and prompts that
have something in common. speculative: a trained model's MTP module drafting for it
(configs/pretrain_draft.py). first_run: seconds by part of the whole recipe of --config, with an
empty cache of compiled programs and then, with another seed, with what that left.
grpo: whole steps of reinforcement, 2 prompts x 8 samples x 64 tokens, on the checkpoint of
--model (a Hugging Face directory, a GGUF file or a workdir; else a random model of SmolLM2-135M's
shape), beside TRL's trainer (`pip install trl`); the first step, which compiles, is told apart.
judges: answers a second of reasoning-gym's scorer, of our own rule and of Math-Verify, with the
processes they run in, or with --cases, the unpacked source of Math-Verify (`pip download
--no-deps --no-binary :all: math-verify`), how many of its own cases each accepts. sandbox:
milliseconds from start to end of an empty program in the sandbox, of the interpreter without one,
and of judging a function by its tests, which takes two.
Every contender first warms up, as the heap takes several steps to settle. Nothing else should run
meanwhile; load average and the rate of a matrix product are in the result, which --out=FILE keeps
as JSON.
"""

import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError, require
from deepseek_jax.hub.safetensors import is_pretrained, save_pretrained
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.plan.flops import parameters
from deepseek_jax.presets import preset
from experiments import program
from experiments.benchmarks import confinement, decoders, judging, reinforcement, trainers
from experiments.benchmarks import first_run as first_runs
from experiments.benchmarks.contender import Contender, Turn
from experiments.benchmarks.timing import machine, pair_ratio, take_turns
from experiments.benchmarks.trainers import Shape

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the suite of the flags, prints its tables and writes its JSON."""
  require(FLAGS.pairs > 0, f"--pairs is {FLAGS.pairs}; it must be positive.")
  require(FLAGS.steps > 0, f"--steps is {FLAGS.steps}; it must be positive.")
  require(FLAGS.warmup > 0, f"--warmup is {FLAGS.warmup}; it must be positive.")
  rivals = ["", *RIVALS.get(FLAGS.suite, [])]
  require(
    FLAGS.against in rivals,
    f"--against={FLAGS.against} has no --suite={FLAGS.suite}; use one of {rivals}.",
  )
  result = {"suite": FLAGS.suite, "before": machine()}
  result |= SUITES[FLAGS.suite]()
  result["after"] = machine()
  for name, unit in (("load_average", ""), ("matmul_gflops", " GFLOP/s, float32 2048^3")):
    print(f"{name}: {result['before'][name]} -> {result['after'][name]}{unit}")
  if FLAGS.out:
    _write(FLAGS.out, result)


def train() -> dict[str, Any]:
  """Tokens per second of our training step and of another's, and the parts of ours."""
  shape = Shape(preset(FLAGS.preset), FLAGS.batch, FLAGS.length)
  names = ["deepseek_jax", *([FLAGS.against] if FLAGS.against else [])]
  print(f"{FLAGS.preset}: {parameters(shape.model):,} parameters, {shape.batch} x {shape.length}")
  seconds = _race({name: (trainers.CONTENDERS[name], shape) for name in names})
  result: dict[str, Any] = {"shape": dataclasses.asdict(shape), "steps": FLAGS.steps}
  result["tokens_per_second"] = {n: _rates(shape, s) for n, s in seconds.items()}
  for name, rates in result["tokens_per_second"].items():
    print(f"  {name:14}{rates['median']:9.0f} tokens/s   {rates['all']}")
  if FLAGS.against:
    result["ratio"] = pair_ratio(seconds["deepseek_jax"], seconds[FLAGS.against])
    print(f"  ratio         {result['ratio']:9.2f} (median of {FLAGS.pairs} pairs)")
  if FLAGS.parts:
    result["parts"] = _parts(shape, statistics.median(seconds["deepseek_jax"]) / FLAGS.steps)
  return result


def experts() -> dict[str, Any]:
  """A token's cost in a full training step with many experts, relative to few."""
  few, many = 32, 128
  model = preset(FLAGS.preset)
  require(model.moe is not None, f"--preset={FLAGS.preset} has no experts; name one that has.")
  assert model.moe is not None
  result: dict[str, Any] = {"experts": [few, many], "steps": FLAGS.steps, "lengths": {}}
  for length, remat in ((256, "none"), (1024, "full")):
    shapes = {}
    for count in (few, many):
      moe = dataclasses.replace(model.moe, experts=count)
      shapes[count] = Shape(dataclasses.replace(model, moe=moe), FLAGS.batch, length, remat=remat)
    ours = trainers.deepseek_jax_turn
    seconds = _race({str(count): (ours, shape) for count, shape in shapes.items()})
    ratio = pair_ratio(seconds[str(many)], seconds[str(few)])
    rates = {name: _rates(shapes[int(name)], s) for name, s in seconds.items()}
    result["lengths"][length] = {"tokens_per_second": rates, "cost_ratio": 1 / ratio}
    shown = ", ".join(f"{name} experts {r['median']:.0f} tokens/s" for name, r in rates.items())
    print(f"  {FLAGS.batch} x {length}: {shown}; cost per token {1 / ratio:.2f} times")
  return result


def decode() -> dict[str, Any]:
  """Greedy tokens per second on one checkpoint, with one row and with sixteen."""
  tokens = FLAGS.new_tokens
  require(tokens > 0, f"--new_tokens is {tokens}; it must be positive.")
  names = ["deepseek_jax", *([FLAGS.against] if FLAGS.against else [])]
  result: dict[str, Any] = {"model": FLAGS.model, "new_tokens": tokens, "batches": {}}
  with tempfile.TemporaryDirectory() as folder:
    directory = _checkpoint(folder, FLAGS.preset)
    for batch in (1, 16):
      reading = decoders.Reading(directory, batch)
      entries = {name: (decoders.CONTENDERS[name], reading) for name in names}
      seconds = _race(entries, steps=tokens, warmup=tokens)
      rates = {n: batch * tokens / statistics.median(s) for n, s in seconds.items()}
      result["batches"][batch] = {"tokens_per_second": rates, "seconds": seconds}
      shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
      print(f"  batch {batch:2}: {shown} tokens/s", end="")
      if FLAGS.against:
        ratio = pair_ratio(seconds["deepseek_jax"], seconds[FLAGS.against])
        result["batches"][batch]["ratio"] = ratio
        print(f"; ratio {ratio:.2f} (median of {FLAGS.pairs} pairs)", end="")
      print()
  return result


def _checkpoint(folder: str, otherwise: str) -> str:
  """A Hugging Face directory that all contenders load: --model, or made in `folder`.

  It is made in float32 of a GGUF file or a workdir, and of the preset `otherwise` with random
  weights where no model is named.
  """
  if FLAGS.model and is_pretrained(FLAGS.model):
    return FLAGS.model
  if FLAGS.model:
    model = api.load(FLAGS.model)
    config, weights = model.config, model.weights
  else:
    random = Transformer(dataclasses.replace(preset(otherwise), mtp_depth=0))
    config = random.config
    weights = jax.jit(lambda key: init_weights(random, key))(jax.random.key(0))
  save_pretrained(os.path.join(folder, ""), config, weights)
  return folder


def batching() -> dict[str, Any]:
  """Continuous against static batches, and shared prompts."""
  from experiments.benchmarks.batching import Batching

  result = Batching(preset(FLAGS.preset)).measure(FLAGS.pairs)
  rates = result["tokens_per_second"]
  print(f"  {result['requests']} requests, {result['tokens']} tokens: {rates} tokens/s")
  print(f"  ratio {result['ratio']:.2f} of {result['perfect']:.2f}", end="; ")
  print(f"{result['same_requests']} requests with the same tokens in both")
  for name, seconds in result["prompts"].items():
    print(f"  16 prompts of 512 tokens that share {name}: {seconds * 1e3:.0f} ms")
  return result


def speculative() -> dict[str, Any]:
  """The model's MTP module drafting one to three tokens, greedily and at T = 0.6."""
  from experiments.benchmarks.drafting import Drafting

  require(bool(FLAGS.model), "--model is missing; name a model with an MTP module.")
  drafting = Drafting(api.load(FLAGS.model))
  results = [drafting.measure(FLAGS.pairs, heat, (1, 2, 3)) for heat in (0.0, 0.6)]
  shown = ("acceptance", "cost_of_verifying", "cost_of_a_draft", "predicted", "speed_up")
  for result in results:
    kept, left = result["prompts"], result["left_out"]
    print(f"  T = {result['temperature']}: {kept} held-out prompts, {left} that loop left out")
    for count, found in result["drafts"].items():
      figures = ", ".join(f"{name.replace('_', ' ')} {found[name]:.2f}" for name in shown)
      print(f"    drafts {count}: {figures}; same tokens: {found['same_tokens']}")
  return {"temperatures": results}


def first_run() -> dict[str, Any]:
  """Seconds by part of the recipe's first start, and of a second one."""
  starts = first_runs.measure(FLAGS.config)
  print(f"{FLAGS.config}\n{first_runs.table(starts)}")
  return {"config": FLAGS.config, "starts": starts}


def grpo() -> dict[str, Any]:
  """Seconds of a GRPO step, sampling and updating apart, and of another's whole step."""
  with tempfile.TemporaryDirectory() as folder:
    directory = _checkpoint(folder, "smollm2_135m")
    result = reinforcement.measure(directory, FLAGS.against, FLAGS.pairs)
  for name, found in result["seconds"].items():
    parts = [f"{p} {found[p]:.2f}, " for p in ("sampling", "updating") if p in found]
    shown = f"{''.join(parts)}the first {found['first']:.1f}"
    print(f"  {name:14}{found['step']:9.2f} s a step ({shown})   {found['all']}")
  if FLAGS.against:
    print(f"  ratio         {result['ratio']:9.2f} (median of {FLAGS.pairs} pairs)")
  return result


def judges() -> dict[str, Any]:
  """Answers judged a second, or right and wrong ones accepted."""
  if FLAGS.cases:
    counts = judging.agreement(FLAGS.cases)
    for name, of in counts.items():
      shown = ", ".join(f"{kind} accepted {n} of {size}" for kind, (n, size) in of.items())
      print(f"  {name:24}{shown}")
    return {"cases": counts}
  result = judging.rates(FLAGS.pairs)
  for name, found in result.items():
    rate = statistics.median(found["per_second"])
    print(f"  {name:24}{rate:9.0f} answers/s, the first after {found['start']:.1f} s")
  return {"judges": result}


def sandbox() -> dict[str, Any]:
  """What it costs to run a program where it can do no harm."""
  result = confinement.measure(FLAGS.pairs)
  for name, found in result.items():
    print(f"  {name:24}{found['median']:9.1f} ms   (tenth {found['tenth']:.1f})")
  return {"milliseconds": result}


SUITES: dict[str, Callable[[], dict[str, Any]]] = {
  "train": train,
  "experts": experts,
  "decode": decode,
  "batching": batching,
  "speculative": speculative,
  "first_run": first_run,
  "grpo": grpo,
  "judges": judges,
  "sandbox": sandbox,
}


RIVALS = {"train": ["transformers"], "decode": ["transformers"], "grpo": ["trl"]}


def _race(
  entries: dict[str, tuple[Callable[[Any], Turn], Any]], steps: int = 0, warmup: int = 0
) -> dict[str, list[float]]:
  """Seconds of each entry (what builds a contender, and of what shape) in each round."""
  steps, contenders = steps or FLAGS.steps, {}
  try:
    for label, (build, shape) in entries.items():
      contenders[label] = Contender(build, shape, warmup or FLAGS.warmup)
    turns = {label: lambda c=c: c(steps) for label, c in contenders.items()}
    return take_turns(turns, FLAGS.pairs)
  finally:
    for contender in contenders.values():
      contender.close()


def _rates(shape: Shape, seconds: list[float]) -> dict[str, Any]:
  rates = [shape.tokens * FLAGS.steps / s for s in seconds]
  return {"median": statistics.median(rates), "all": [round(r, 1) for r in rates]}


def _parts(shape: Shape, whole: float) -> dict[str, float]:
  """Median seconds of each part in a step, and of what is left of the `whole` step."""
  from experiments.benchmarks.parts import parts

  turns = {n: p.seconds for n, p in parts(shape.model, shape.batch, shape.length).items()}
  found = {n: statistics.median(s) for n, s in take_turns(turns, FLAGS.pairs).items()}
  found["rest"] = whole - sum(found.values())
  for name, seconds in found.items():
    print(f"  {name:14}{seconds * 1e3:9.0f} ms  {seconds / whole:6.1%} of the step")
  return found | {"step": whole}


def _write(path: str, result: dict[str, Any]) -> None:
  """Writes JSON beside `path`, then renames it there."""
  try:
    with open(path + ".partial", "w") as file:
      json.dump(result, file, indent=2)
  except FileNotFoundError as error:
    raise ConfigError(f"--out={path} is in no directory; make its directory first.") from error
  os.replace(path + ".partial", path)


if __name__ == "__main__":
  flags.DEFINE_enum("suite", "train", list(SUITES), "What is measured.")
  flags.DEFINE_string("model", "", "In --suite=decode, grpo and speculative: which model.")
  flags.DEFINE_string("cases", "", "In --suite=judges: Math-Verify's source.")
  flags.DEFINE_string("config", "configs/r1_tiny.py", "In --suite=first_run: of the recipe.")
  flags.DEFINE_enum(
    "against", "", ["", "transformers", "trl"], "Whom to measure beside; none if empty."
  )
  flags.DEFINE_string("preset", "v3_100m", "The architecture, one of deepseek_jax/presets.py.")
  flags.DEFINE_integer("batch", 8, "Rows.")
  flags.DEFINE_integer("length", 256, "Tokens of a row, in --suite=train.")
  flags.DEFINE_integer("new_tokens", 256, "Of every row in a turn of --suite=decode.")
  flags.DEFINE_integer("pairs", 5, "How often each contender has its turn.")
  flags.DEFINE_integer("steps", 2, "Steps of one turn.")
  flags.DEFINE_integer("warmup", 8, "Steps of each contender before the first turn.")
  flags.DEFINE_bool("parts", True, "Also time the parts of our step.")
  flags.DEFINE_string("out", "", "A JSON file for the result.")
  program.run(main)
