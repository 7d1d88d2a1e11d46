"""The TPU's compiler beside the planner, where libtpu is installed; what is said elsewhere."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.plan import compiled
from deepseek_jax.plan.compiled import compile_step
from deepseek_jax.plan.topology import topology
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI

PROGRAM = """
import json, sys
from deepseek_jax.plan.compiled import compile_step
from deepseek_jax.plan.topology import topology
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI, SAMPLING
import dataclasses
mesh, sampled = json.loads(sys.argv[1])
work = dataclasses.replace(
  MINI, mesh=MeshConfig(**mesh), sampling=SAMPLING if sampled else None, reference=sampled
)
found = compile_step(work, topology("v5e-4"))
print(json.dumps([found.arguments, found.temporaries, found.fits, work.kept]))
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


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize("mesh", [{"fsdp": 4}, {"fsdp": 2, "expert": 2}, {"data": 2, "tensor": 2}])
@pytest.mark.parametrize("sampled", [False, True])
def test_arguments_are_what_the_planner_keeps(mesh, sampled):
  command = [sys.executable, "-c", PROGRAM, json.dumps([mesh, sampled])]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
  assert done.returncode == 0, done.stderr
  arguments, temporaries, fits, kept = json.loads(done.stdout.splitlines()[-1])
  state = sum(size for kind, size in kept.items() if kind != "trained")
  assert fits and temporaries > 0
  assert state == pytest.approx(arguments, rel=0.2)  # beside it the batch, and padded tiles
