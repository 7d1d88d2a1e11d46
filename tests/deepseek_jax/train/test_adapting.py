"""Fine-tuning of adapters: what is trained, kept, resumed, merged, and refused."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.config import ConfigError
from deepseek_jax.model import adapters
from deepseek_jax.model.transformer import Transformer, logits
from deepseek_jax.rl.distillation import distill_job, run_distill
from deepseek_jax.train.base import NOTE
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.pretrain_job import pretrain_job
from deepseek_jax.train.sft import run_sft, sft_job
from deepseek_jax.train.start import load_start, load_stored
from deepseek_jax.train.workdir import Workdir, read_config
from tests.deepseek_jax.train.adapted import MODELS, RANK, answers, sft_values, write_base

TOKENS_BT = np.random.default_rng(0).integers(0, 60, (2, 9))


@pytest.fixture(scope="module", params=MODELS)
def tuned(request, tmp_path_factory):
  """A base, its adapters' workdir, and the state at the end."""
  folder = tmp_path_factory.mktemp(request.param)
  base = write_base(folder / "base", MODELS[request.param])
  values = sft_values(base, answers(folder / "answers.jsonl"))
  before = load_weights(base / "checkpoints")
  state, _ = run_sft(sft_job(values), folder / "tuned")
  return SimpleNamespace(
    kind=request.param, base=base, before=before, folder=folder, values=values,
    workdir=folder / "tuned", state=jax.device_get(state),
  )  # fmt: skip


def assert_equal(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def nbytes(tree):
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_only_adapters_have_moments_and_they_all_move(tuned):
  moving = adapters.trained(tuned.state.weights.params)
  adam = next(s for s in tuned.state.opt_state if hasattr(s, "mu"))
  assert jax.tree.structure(adam.mu) == jax.tree.structure(adam.nu) == jax.tree.structure(moving)
  counter = adam.count.nbytes
  assert nbytes(tuned.state.opt_state) == 2 * nbytes(moving) + counter
  assert nbytes(tuned.state.weights) == nbytes(tuned.before) + nbytes(moving)
  assert nbytes(moving) < 0.5 * nbytes(tuned.before)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(moving)), "B began as zeros"
  assert tuned.state.reference is None and tuned.state.ema is None


def test_the_base_is_bit_for_bit_what_it_was(tuned):
  off = adapters.base_of(tuned.state.weights)
  assert_equal(off.params, tuned.before.params)
  np.testing.assert_array_equal(off.router_bias_LE, tuned.before.router_bias_LE)
  assert_equal(load_weights(tuned.base / "checkpoints"), tuned.before)


def test_training_lowers_the_loss_from_that_of_the_base(tuned):
  losses = [record["ce"] for record in read_metrics(tuned.workdir / "metrics.jsonl")]
  assert losses[-1] < losses[0] - 0.1


def test_a_checkpoint_holds_the_adapters_alone(tuned):
  saved = load_weights(tuned.workdir / "checkpoints")
  assert_equal(saved.params, adapters.trained(tuned.state.weights.params))


def test_every_reader_of_a_workdir_gets_the_merged_model(tuned):
  config = MODELS[tuned.kind]
  wanted = jax.jit(logits, static_argnums=0)(Transformer(config), tuned.state.weights, TOKENS_BT)
  model = ds.load(tuned.workdir)
  assert model.config == config and not adapters.is_adapted(model.params)
  found = model.logits(TOKENS_BT)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  assert np.abs(found - ds.load(tuned.base).logits(TOKENS_BT)).max() > 1e-2
  assert_equal(jax.device_get(load_start(tuned.workdir)[1].params), jax.device_get(model.params))
  model.save(tuned.folder / "exported")
  assert_equal(ds.load(tuned.folder / "exported").logits(TOKENS_BT), found)
  assert len(model.generate(["sum 1 2 ?"], max_new=3)) == 1


def test_interrupted_and_resumed_it_is_the_run_undisturbed(tuned, tmp_path):
  again = tmp_path / "again"
  shutil.copytree(tuned.workdir, again)
  shutil.rmtree(again / "checkpoints" / "4")
  state, position = run_sft(sft_job(tuned.values), again)
  assert position.step == 4
  assert_equal(jax.device_get(state), tuned.state)


def test_a_base_that_changed_or_went_is_refused(tuned, tmp_path):
  base, run = tmp_path / "base", tmp_path / "run"
  shutil.copytree(tuned.base, base)
  shutil.copytree(tuned.workdir, run)
  (run / NOTE).write_text((run / NOTE).read_text().replace(str(tuned.base), str(base)))
  ds.load(run)  # for the copy is the same base elsewhere
  shutil.rmtree(base)
  with pytest.raises(ConfigError, match=f"holds adapters of {base}, .*does not exist.*base.json"):
    ds.load(run)
  write_base(base, MODELS[tuned.kind], seed=1)
  with pytest.raises(ConfigError, match=f"{base} is no longer the base of the adapters in {run}"):
    ds.load(run)
  other = {**tuned.values, "init": str(base)}
  with pytest.raises(ConfigError, match="init was"):
    run_sft(sft_job(other), run)
  (run / NOTE).unlink()
  with pytest.raises(ConfigError, match="base.json cannot be read"):
    ds.load(run)


def test_a_resumed_run_refuses_another_base(tuned, tmp_path):
  base, run = tmp_path / "base", tmp_path / "run"
  write_base(base, MODELS[tuned.kind], seed=1)
  values = {**tuned.values, "init": str(base)}
  with Workdir(run, ds.config.to_dict(sft_job(values))):
    shutil.copy(tuned.workdir / NOTE, run / NOTE)
  with pytest.raises(ConfigError, match="is no longer the base of the adapters in .* more differ"):
    run_sft(sft_job(values), run)
  assert not list((run / "checkpoints").iterdir())


def test_a_run_goes_on_from_an_adapted_workdir(tuned, tmp_path):
  """By other adapters, whose base is the merged model."""
  values = {**tuned.values, "init": str(tuned.workdir), "train": {"steps": 1}}
  state, _ = run_sft(sft_job(values), tmp_path / "more")
  base = adapters.base_of(jax.device_get(state.weights))
  assert_equal(base.params, jax.device_get(load_start(tuned.workdir)[1].params))
  assert not adapters.is_adapted(ds.load(tmp_path / "more").params)


@pytest.mark.parametrize(("kind", "dtype"), [("v3", "fp8"), ("dense", "bfloat16")])
def test_a_base_may_stay_as_its_files_have_it(tmp_path, kind, dtype):
  ds.load(write_base(tmp_path / "base", MODELS[kind])).save(tmp_path / dtype, dtype)
  values = sft_values(tmp_path / dtype, answers(tmp_path / "answers.jsonl"))
  values = {**values, "train": {"steps": 2}, "lora": {"rank": RANK, "base": "stored"}}
  _, before, _ = load_stored(tmp_path / dtype, dtype="stored")
  state, _ = run_sft(sft_job(values), tmp_path / "run")
  held = jax.device_get(adapters.base_of(state.weights))
  assert_equal(held.params, jax.device_get(before.params))
  small = [x for x in jax.tree.leaves(held.params) if x.dtype.itemsize < 4]
  assert sum(x.size for x in small) > 0.5 * sum(x.size for x in jax.tree.leaves(held.params))
  model = Transformer(MODELS[kind])
  wanted = jax.jit(logits, static_argnums=0)(model, state.weights, TOKENS_BT)
  found = ds.load(tmp_path / "run").logits(TOKENS_BT)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_on_a_mesh_it_is_the_same_training(tmp_path):
  base, data = write_base(tmp_path / "base", MODELS["v3"]), answers(tmp_path / "answers.jsonl")
  values = {**sft_values(base, data), "train": {"steps": 2}}
  values["data"]["batch"] = 4
  spread = {**values, "mesh": {"data": 2, "fsdp": 2, "tensor": 2}}
  for name, given in (("one", values), ("eight", spread)):
    run_sft(sft_job(given), tmp_path / name)
  one, eight = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "eight"))
  for ours, theirs in zip(eight, one, strict=True):
    for name in ("loss", "grad_norm"):
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
  model, other = ds.load(tmp_path / "eight"), ds.load(tmp_path / "one")
  np.testing.assert_allclose(model.logits(TOKENS_BT), other.logits(TOKENS_BT), atol=2e-3)


def test_a_student_adapted_from_its_teacher_has_at_first_nothing_to_learn_of_it(tmp_path):
  base = write_base(tmp_path / "base", MODELS["dense"])
  values = sft_values(base, answers(tmp_path / "answers.jsonl"), teacher=str(base), mix=0.5)
  state, _ = run_distill(distill_job(values), tmp_path / "run")
  divergences = [r["divergence"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")]
  assert abs(divergences[0]) < 1e-6 < divergences[-1]
  before = load_weights(base / "checkpoints")
  assert_equal(jax.device_get(adapters.base_of(state.weights).params), before.params)


def test_without_lora_a_workdir_of_before_goes_on(tmp_path):
  base = write_base(tmp_path / "base", MODELS["dense"])
  values = sft_values(base, answers(tmp_path / "answers.jsonl"))
  del values["lora"]
  config = ds.config.to_dict(sft_job(values))
  assert config["lora"] is None
  del config["lora"]
  Workdir(tmp_path / "run", config).close()
  with Workdir(tmp_path / "run", ds.config.to_dict(sft_job(values))):
    assert read_config(tmp_path / "run")["lora"] is None
  with pytest.raises(ConfigError, match="lora.rank was 'absent' and is 4"):
    Workdir(tmp_path / "run", ds.config.to_dict(sft_job({**values, "lora": {"rank": 4}})))


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"lora": {"rank": 5}}, "lora.rank is 5, but dense/attention/k_rope_DR"),
    ({"lora": {"targets": "lm_head"}}, "lora.targets has 'lm_head'"),
    ({"optimizer": {"ema_decay": 0.9}}, "optimizer.ema_decay is 0.9"),
    ({"schedule": {"peak": 1e-2, "speed": 1e-3}}, "schedule.speed is 0.001"),
  ],
)
def test_jobs_that_cannot_be_are_refused_before_their_workdir_is(tmp_path, changes, told):
  base = write_base(tmp_path / "base", MODELS["v3"])
  values = {**sft_values(base, answers(tmp_path / "answers.jsonl")), **changes}
  for make in (sft_job, lambda v: distill_job({**v, "teacher": str(base)})):
    with pytest.raises(ConfigError, match=told):
      make(values)
  with pytest.raises(ConfigError, match="config.lora adapts a trained model; name it"):
    pretrain_job(
      {
        "model": {"preset": "v3_mini"},
        "schedule": {"peak": 1e-3, "speed": 0.0},
        "train": {"steps": 1},
        "lora": {"rank": 4},
      }
    )
