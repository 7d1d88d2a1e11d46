"""Says what a job takes before anything is compiled: memory, bytes, time and price.

  python -m experiments.plan --config=configs/v3_671b.py --topology=v5p-4096
  python -m experiments.plan --model=v3_671b --topology=h800-2048
  python -m experiments.plan --published

--topology is a slice as Google names it (v5p-1024 has 512 chips), its torus (v5p:8x8x8) or a count
of GPUs (h800-2048). --model is a preset, which takes the place of the config's model, or is planned
by itself: --rows_per_device rows of --length tokens on the quickest mesh. --search looks for that
under the device's memory or --memory=GB. --published prints how DeepSeek's published costs follow.
--out writes plan.html; --compile has the TPU's compiler say its own figures, for which
pip install -e '.[plan]'.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from deepseek_jax.config import ConfigError, require
from deepseek_jax.evaluate.plan_page import write_plan_page
from deepseek_jax.paths import local_path
from deepseek_jax.plan.compiled import compile_step
from deepseek_jax.plan.estimate import Plan, plan
from deepseek_jax.plan.published import derivations
from deepseek_jax.plan.roofline import Attained
from deepseek_jax.plan.search import search
from deepseek_jax.plan.tables import (
  Table,
  compiled_table,
  heading,
  meshes_table,
  published_table,
  tables,
)
from deepseek_jax.plan.topology import Topology, topology
from deepseek_jax.plan.workload import Workload
from deepseek_jax.presets import preset
from deepseek_jax.recipe.planned import planned, preset_values
from experiments import program

FLAGS = flags.FLAGS
_OF_A_PRESET = {"rows_per_device": 4, "length": 4096}  # and their defaults


def main() -> None:
  """Prints the plan of the flags."""
  if FLAGS.published:
    print("\n\n".join(published_table(each).text() for each in derivations()))
    return
  require(bool(FLAGS.topology), "--topology is missing; give one like v5p-1024 or h800-2048.")
  place = topology(FLAGS.topology)
  work = _workload(place)
  searched = FLAGS.search or not FLAGS["config"].present  # for a preset says nothing of a mesh
  if FLAGS.memory is not None and not searched:
    raise ConfigError("--memory is the limit of a search; add --search, or leave it out.")
  shown: list[Table] = []
  if searched:
    made, shown = _search(work, place)
  else:
    made = plan(work, place, _attained(), _price())
  require(FLAGS.context > 0, f"--context is {FLAGS.context}; it must be positive.")
  shown += tables(made, FLAGS.context)
  if FLAGS.compile:
    shown.append(compiled_table(made, compile_step(made.workload, place)))
  print("\n\n".join([heading(made), *(table.text() for table in shown)]))
  if FLAGS.out:
    file = local_path(FLAGS.out) / "plan.html"
    write_plan_page(file, made, shown)
    print(f"\nwrote {file}")


def _workload(place: Topology) -> Workload:
  """What --config asks, or one step of --model by itself."""
  if not FLAGS["config"].present:
    require(
      bool(FLAGS.model),
      "nothing is named to plan; give --config=configs/NAME.py or --model=PRESET.",
    )
    rows, length = (FLAGS[name].value or default for name, default in _OF_A_PRESET.items())
    require(
      rows > 0 and length > 0, "--rows_per_device and --length must be positive; give both so."
    )
    length = min(length, preset(FLAGS.model).max_context)
    values: dict[str, Any] = preset_values(FLAGS.model, rows * place.devices, length)
    return planned(values, FLAGS.model, FLAGS.model)
  for name in _OF_A_PRESET:
    require(FLAGS[name].value is None, f"--{name} is for --model alone; set the config's field.")
  name = Path(config_flags.get_config_filename(FLAGS["config"])).stem
  return planned(program.config_values(), name, FLAGS.model or "", FLAGS.stage, FLAGS.sampled or 0)


def _search(work: Workload, place: Topology) -> tuple[Plan, list[Table]]:
  require(FLAGS.memory is None or FLAGS.memory > 0, f"--memory is {FLAGS.memory}; give GB above 0.")
  limit = place.device.memory if FLAGS.memory is None else FLAGS.memory * 1e9
  found = search(work, place, limit, _attained(), _price())
  return found[0], [meshes_table(found)]


def _price() -> float:
  require(
    FLAGS.price is None or FLAGS.price >= 0, f"--price is {FLAGS.price}; give US dollars an hour."
  )
  return -1.0 if FLAGS.price is None else FLAGS.price


def _attained() -> Attained:
  """The shares of --attained, the others by default."""
  names = [field.name for field in dataclasses.fields(Attained)]
  shares: dict[str, float] = {}
  for given in FLAGS.attained:
    name, _, value = given.partition("=")
    try:
      share = float(value)
    except ValueError:
      share = -1.0
    require(
      name in names and share >= 0,
      f"--attained has {given!r}; give NAME=SHARE of {', '.join(names)}.",
    )
    shares[name] = share
  return Attained(**shares)


if __name__ == "__main__":
  program.config_flag()
  flags.DEFINE_string("model", None, "A preset, in place of the config's model or by itself.")
  flags.DEFINE_string("stage", "", "Of a recipe; by default the first that is trained.")
  flags.DEFINE_string("topology", None, "v5p-1024, v5p:8x8x8, h800-2048 ...")
  flags.DEFINE_integer("rows_per_device", None, "Of a preset by itself; 4 if not given.")
  flags.DEFINE_integer("length", None, "Of a preset's rows; 4096 if not given.")
  flags.DEFINE_integer("sampled", None, "Mean tokens of a sample; by default half of the longest.")
  flags.DEFINE_integer("context", 131_072, "Tokens of the request that is served.")
  flags.DEFINE_float("price", None, "US dollars per device-hour; see plan/hardware.py.")
  flags.DEFINE_list("attained", [], "Shares of the makers' figures, like compute=0.5,overlap=0.9.")
  flags.DEFINE_bool("search", False, "Find the quickest mesh that fits.")
  flags.DEFINE_float("memory", None, "GB of a device that a search may use.")
  flags.DEFINE_bool("published", False, "Print how DeepSeek's published costs follow, and end.")
  flags.DEFINE_string("out", None, "The directory to write plan.html into.")
  flags.DEFINE_bool("compile", False, "Ask the TPU's compiler too; needs libtpu, and minutes.")
  program.run(main)
