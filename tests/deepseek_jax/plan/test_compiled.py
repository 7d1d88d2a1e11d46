"""The TPU's compiler beside the planner, where libtpu is installed; what is said elsewhere."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.plan import compiled
from deepseek_jax.plan.compiled import compile_step, lower_step
from deepseek_jax.plan.footprint import footprint
from deepseek_jax.plan.topology import topology
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI, SAMPLING

# V2-Lite's widths, which tiles of a TPU hold with little padding, and few layers and experts.
PROGRAM = """
import dataclasses, json, sys
from deepseek_jax.config import ComputeConfig
from deepseek_jax.plan.compiled import compile_step
from deepseek_jax.plan.topology import topology
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI
lite = preset("v2_lite_16b")
lite = dataclasses.replace(
  lite, layers=2, vocab=12_800, moe=dataclasses.replace(lite.moe, experts=8, top_k=2)
)
work = dataclasses.replace(
  MINI, model=lite, mesh=MeshConfig(**json.loads(sys.argv[1])), rows=4, length=2048,
  compute=ComputeConfig(dtype="bfloat16", remat="full", unroll=0),
)  # fmt: skip
found = compile_step(work, topology("v5e-4"))
kept = sum(size for kind, size in work.kept.items() if kind != "trained")
print(json.dumps([found.arguments, found.temporaries, found.fits, kept]))
"""


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"not installed; pip install -e '\.\[plan\]'\.$"):
    compile_step(MINI, topology("v5e-8"))


def test_a_cluster_of_gpus_is_refused():
  with pytest.raises(ConfigError, match="--compile asks the TPU's compiler, and h100-8 is none"):
    compile_step(dataclasses.replace(MINI, mesh=MeshConfig(fsdp=8)), topology("h100-8"))


def test_sizes_in_the_compilers_complaint():
  told = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.
Total hbm usage >= 117.34G:
    reserved        263.00M
    program         101.50G
    arguments        15.60G
"""
  assert compiled._told(told) == (15.6 * 2**30, 101.5 * 2**30)


@pytest.mark.parametrize(
  ("mesh", "sampling"),
  [
    (MeshConfig(fsdp=2, expert=4), None),
    (MeshConfig(fsdp=2, expert=2, context=2), None),
    (MeshConfig(data=4, tensor=2), SAMPLING),
  ],
)
def test_a_cpus_compiler_has_the_same_arguments(mesh, sampling):
  """Which pads nothing: what the planner keeps, and the batch."""
  work = dataclasses.replace(
    MINI, mesh=mesh, sampling=sampling, reference=sampling is not None, rows=8, length=64
  )
  program = lower_step(work, jax.devices(), "cpu").compile()
  arguments = program.memory_analysis().argument_size_in_bytes
  assert footprint(work).kept == pytest.approx(arguments, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize("mesh", [{"fsdp": 4}, {"fsdp": 2, "expert": 2}])
def test_arguments_are_what_the_planner_keeps(mesh):
  command = [sys.executable, "-c", PROGRAM, json.dumps(mesh)]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
  assert done.returncode == 0, done.stderr
  arguments, temporaries, fits, kept = json.loads(done.stdout.splitlines()[-1])
  assert fits and temporaries > 0
  assert kept == pytest.approx(arguments, rel=0.02)  # beside it the batch, and padded tiles
