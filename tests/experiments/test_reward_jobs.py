"""experiments.reward_model as a user runs it: killed, restarted, and refused."""

import pytest

from deepseek_jax.evaluate.results import read_results
from deepseek_jax.train.metrics import read_metrics
from tests import killing

MODULE = "experiments.reward_model"


def flags(workdir):
  """A V3 of a few thousand parameters on some eighty pairs and labels, saved every third step."""
  return [
    "--config=configs/reward_mini.py",
    f"--workdir={workdir}",
    "--config.model.d_model=32",
    "--config.model.layers=2",
    "--config.model.heads=2",
    "--config.model.dense_ff=64",
    "--config.model.moe.expert_ff=16",
    "--config.data.task=tiny",  # whose texts are short: one width, and little to compile
    "--config.data.length=32",
    "--config.data.records=80",
    "--config.data.heldout=0.2",
    "--config.data.batch=16",
    "--config.data.epochs=2",
    "--config.evaluation.every=4",
    "--config.train.checkpoint_every=3",
  ]


@pytest.fixture(scope="module")
def cache():
  """The user's cache, for programs that compile quickly rather than well."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    yield None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp("undisturbed")
  killing.run(MODULE, flags(workdir), cache)
  return workdir


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), pytest.param(8, 1, marks=pytest.mark.slow)])
def test_killed_and_restarted_it_is_the_run_undisturbed(tmp_path, cache, undisturbed, kills, seed):
  records = len(read_metrics(undisturbed / "metrics.jsonl"))
  happened = killing.run_with_kills(MODULE, flags(tmp_path), tmp_path, cache, records, kills, seed)
  assert happened >= 1
  killing.assert_same_outcome(tmp_path, undisturbed)
  found, wanted = (read_results(path / "results.json") for path in (tmp_path, undisturbed))
  assert found["figures"] == wanted["figures"] and len(wanted["figures"]) == 2


def test_bad_input_ends_with_one_sentence(tmp_path, cache):
  arguments = [*flags(tmp_path / "w"), "--config.data.source=jsonl", "--config.data.path=/nowhere"]
  errors = killing.run(MODULE, arguments, cache, status=2)
  assert errors.strip() == "data.path '/nowhere' does not exist."
  assert not (tmp_path / "w").exists()
