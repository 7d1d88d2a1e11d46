"""Loading from every kind of directory, and what a notebook does with the model."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.config import ConfigError, to_dict
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.thought import split_thought
from deepseek_jax.hub.safetensors import abstract_weights, save_pretrained
from deepseek_jax.presets import preset
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.start import read_architecture
from deepseek_jax.train.state import init_state

CONFIG = dataclasses.replace(preset("v3_mini"), vocab=272, layers=2, mtp_depth=0, max_context=64)
STUDENT = dataclasses.replace(
  preset("smollm2_135m"), vocab=272, d_model=48, heads=3, layers=1, dense_ff=32, max_context=64
)
STUDENT = dataclasses.replace(
  STUDENT, attention=dataclasses.replace(STUDENT.attention, kv_heads=1, head_dim=16)
)
BYTES = load_tokenizer("byte")


def random_weights(config, seed):
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    scale = 1.0 if "norm" in str(path[-1]) else 0.15
    return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, abstract_weights(config))


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def save_checkpoint(folder, weights):
  checkpointer = Checkpointer(folder)
  checkpointer.save(3, init_state(weights, make_optimizer(OptimizerConfig())), {})
  checkpointer.close()


@pytest.fixture(scope="module")
def job(tmp_path_factory):
  """The workdir of a training job."""
  folder = tmp_path_factory.mktemp("job")
  (folder / "config.json").write_text(json.dumps({"model": to_dict(CONFIG)}))
  save_checkpoint(folder / "checkpoints", random_weights(CONFIG, 0))
  BYTES.save(folder / "tokenizer")
  return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
  """The workdir of a recipe that was killed behind its first reinforcement."""
  folder = tmp_path_factory.mktemp("recipe")
  config = {"teacher": to_dict(CONFIG), "student": to_dict(STUDENT), "tokenizer": "byte"}
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "stages").mkdir()
  for seed, (stage, model) in enumerate(
    {"base": CONFIG, "r1_zero": CONFIG, "student_base": STUDENT, "cold_start": CONFIG}.items()
  ):
    save_checkpoint(folder / "checkpoints" / stage, random_weights(model, seed))
    if stage != "cold_start":  # unfinished
      (folder / "stages" / f"{stage}.json").write_text("{}")
  return folder


@pytest.fixture(scope="module")
def model(job):
  return ds.load(job)


def test_importing_the_package_imports_no_jax():
  code = "import sys, deepseek_jax; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_job_and_its_export_are_the_same_model(job, model, tmp_path):
  assert model.config == CONFIG
  assert_same(model.weights, random_weights(CONFIG, 0))
  model.save(tmp_path / "out")
  exported = ds.load(tmp_path / "out")
  assert exported.config == CONFIG
  assert_same(exported.weights, model.weights)
  assert exported.tokenizer.encode("ab") == model.tokenizer.encode("ab") == BYTES.encode("ab")
  assert exported.params["embed_VD"].shape == (272, 96)
  with pytest.raises(ConfigError, match="shard_bytes is '5GB'; give a number"):
    model.save(tmp_path / "other", shard_bytes="5GB")


def test_a_distilled_model_is_one_model_though_its_config_names_a_teacher(job, model, tmp_path):
  folder = shutil.copytree(job, tmp_path / "distilled")
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps({**config, "teacher": "runs/r1"}))
  assert_same(ds.load(folder).weights, model.weights)
  assert read_architecture(folder) == CONFIG


def test_a_config_that_is_not_the_checkpoints_is_refused(job, tmp_path):
  folder = shutil.copytree(job, tmp_path / "edited")
  config = json.loads((folder / "config.json").read_text())
  for change in ({"layers": CONFIG.layers + 1}, {"heads": 2 * CONFIG.heads}, {"mtp_depth": 1}):
    (folder / "config.json").write_text(json.dumps(config | {"model": config["model"] | change}))
    with pytest.raises(ConfigError, match="holds other weights than the model in config.json"):
      ds.load(folder)


def test_a_model_of_others_is_not_replaced_by_an_export(model, tmp_path):
  model.save(tmp_path / "out")
  (tmp_path / "out" / "SHA256SUMS").unlink()  # as of a model from elsewhere
  kept = (tmp_path / "out" / "config.json").read_bytes()
  with pytest.raises(ConfigError, match="holds a model that was not exported here"):
    model.save(tmp_path / "out")
  assert (tmp_path / "out" / "config.json").read_bytes() == kept


def test_stages_of_a_recipe(recipe):
  newest = ds.load(recipe)
  assert newest.config == CONFIG
  assert_same(newest.weights, random_weights(CONFIG, 1))  # r1_zero, the last finished teacher
  student = ds.load(recipe, stage="student_base")
  assert student.config == STUDENT
  assert_same(student.weights, random_weights(STUDENT, 2))
  assert student.tokenizer.encode("ab") == BYTES.encode("ab")
  with pytest.raises(ConfigError, match="cold_start.*base, r1_zero, student_base"):
    ds.load(recipe, stage="cold_start")
  with pytest.raises(ConfigError, match="stage 'zero' is none of"):
    ds.load(recipe, stage="zero")


def test_directories_without_a_model_are_refused(tmp_path, job):
  with pytest.raises(ConfigError, match="does not exist"):
    ds.load(tmp_path / "absent")
  with pytest.raises(ConfigError, match="no config.json"):
    ds.load(tmp_path)
  with pytest.raises(ConfigError, match="not stages"):
    ds.load(job, stage="r1")
  (tmp_path / "config.json").write_text(json.dumps({"model": to_dict(CONFIG)}))
  with pytest.raises(ConfigError, match="checkpoints"):
    ds.load(tmp_path)


def test_files_that_are_no_model_and_names_that_are_none_are_refused(tmp_path):
  save_pretrained(tmp_path / "out", STUDENT, random_weights(STUDENT, 0))
  with pytest.raises(ConfigError, match=r"is a file, and no GGUF.* it lies in, .*out\.$"):
    ds.load(tmp_path / "out" / "model.safetensors")
  (tmp_path / "x.txt").write_text("x")
  with pytest.raises(ConfigError, match="is a file, and no GGUF file; name a workdir"):
    ds.load(tmp_path / "x.txt")
  with pytest.raises(ConfigError, match=r"^x{60}\.\.\. is too long a name"):
    ds.load("x" * 300)
  for path in (None, 5):
    with pytest.raises(ConfigError, match=f"^{path} is no path"):
      ds.load(path)


@pytest.mark.parametrize(
  ("tokens", "named"),
  [
    ([1, 2], "integers"),
    ([[0.5]], "integers"),
    ([[1], [2, 3]], "one length"),
    ([[272]], "vocabulary"),
    ([[0] * 65], "context"),
  ],
)
def test_logits_of_bad_tokens_are_refused(model, tokens, named):
  with pytest.raises(ConfigError, match=named):
    model.logits(tokens)


@pytest.mark.parametrize(
  ("prompts", "named"),
  [
    ([[1.5]], "a token of prompt 0 is 1.5; give a whole"),
    ([[1], [True]], "a token of prompt 1 is True"),
    (np.ones((1, 2)), "token of prompt 0"),
    ([5, 6], "prompt 0 is 5; give a text or a list"),
    (["a", [5]], "some prompts are texts"),
    ([[5], "a"], "some prompts are texts"),
    (5, "prompts are 5"),
    (None, "prompts are None"),
    ({"a": 1}, "list of texts"),
    ([b"a", None], "prompt 0 is b'a'"),
  ],
)
def test_prompts_that_are_none_are_refused(model, prompts, named):
  with pytest.raises(ConfigError, match=named):
    model.generate(prompts)


BAD_NUMBERS = [
  *({"max_new": value} for value in (1.5, "5", None, True)),
  *({"top_k": value} for value in (1.5, "5", True, np.float32(3), [3])),
  *({"seed": value} for value in (1.5, None, float("nan"), "1", True)),
  *({"temperature": value} for value in ("hot", True, [1.0], 10**400, 1j)),
  *({"top_p": value} for value in ("1", True, b"1")),
  *({"stop": value} for value in (5, [5], b"a", {"a": 1})),
]


@pytest.mark.parametrize("given", BAD_NUMBERS, ids=str)
def test_numbers_and_stops_that_are_none_are_refused_by_name(model, given):
  for call in (model.generate, model.stream, model.chat):
    with pytest.raises(ConfigError, match=f"^{next(iter(given))} is .*; give a"):
      call("3 + 4", **given)


def test_none_is_the_default_and_numbers_may_be_of_arrays(model):
  bare = model.generate("3 + 4", max_new=6)
  none = dict.fromkeys(("temperature", "top_p", "top_k", "stop"))
  assert model.generate("3 + 4", max_new=np.int64(6), **none) == bare
  assert model.stream("3 + 4", max_new=jnp.int32(6), **none).reply.tokens == 6
  hot = {"temperature": np.float32(1), "top_p": jnp.float32(0.5), "top_k": np.uint8(3)}
  rows = np.array([[20, 21]], np.uint16)
  expected = model.generate([[20, 21]], 6, 1.0, 0.5, 1, 3)
  assert model.generate(rows, 6, **hot, seed=np.uint64(1)) == expected
  assert model.generate(jnp.asarray(rows), 6, **hot, seed=1) == expected


@pytest.mark.parametrize(
  ("messages", "named"), [(None, "a list of messages"), (5, "a list of messages"), ({}, "a list")]
)
def test_conversations_that_are_none_are_refused(model, messages, named):
  with pytest.raises(ConfigError, match=named):
    model.chat(messages)
  with pytest.raises(ConfigError, match="think is 'no'"):
    model.chat("a", think="no")


def test_the_load_of_experts_is_of_texts(model):
  assert np.array_equal(model.expert_load("ab"), model.expert_load(["ab"]))
  for texts in ([], [5], 5, None):
    with pytest.raises(ConfigError, match="at least one text"):
      model.expert_load(texts)
  with pytest.raises(ConfigError, match="the longest text has 65 tokens"):
    model.expert_load(["a", "a" * 65])


def test_greedy_tokens_are_those_of_the_logits(model):
  prompts = [BYTES.encode("3 + 4"), BYTES.encode("5 - 2")]
  answers = model.generate(prompts, max_new=6)
  rows = [prompt + answer + [0] * (6 - len(answer)) for prompt, answer in zip(prompts, answers)]
  logits_BTV = model.logits(rows)
  assert isinstance(logits_BTV, np.ndarray) and logits_BTV.dtype == np.float32
  assert logits_BTV.shape == (2, 11, 272)
  for answer, best in zip(answers, logits_BTV.argmax(axis=-1)):
    assert answer == best[4 : 4 + len(answer)].tolist()
    assert len(answer) == 6 or best[4 + len(answer)] == BYTES.eos_id
  assert model.generate(["3 + 4", "5 - 2"], max_new=6) == [BYTES.decode(a) for a in answers]


def test_one_text_gives_one_text(model):
  tokens = model.generate([BYTES.encode("3 + 4")], max_new=6)
  assert model.generate("3 + 4", max_new=6) == BYTES.decode(tokens[0])
  assert model.generate([], max_new=6) == []


def test_samples_depend_on_the_seed_and_the_place(model):
  hot = [model.generate([[20]] * 2, max_new=6, temperature=1.0, seed=s) for s in (0, 0, 1)]
  assert hot[0] == hot[1] != hot[2] and hot[0][0] != hot[0][1]


def test_a_sample_among_the_single_likeliest_token_is_greedy(model):
  greedy = model.generate("3 + 4", max_new=6)
  assert model.generate("3 + 4", max_new=6, temperature=2.0, top_k=1) == greedy


def test_more_likeliest_tokens_than_there_are_is_all_of_them(model):
  whole = model.generate("3 + 4", max_new=6, temperature=1.0)
  for top_k in (272, 2**31, 2**40):
    assert model.generate("3 + 4", max_new=6, temperature=1.0, top_k=top_k) == whole


def test_text_ends_before_a_stop_string(model):
  text = model.generate("3 + 4", max_new=12)
  stop = text[3:5]
  assert model.generate(["3 + 4"], max_new=12, stop=stop) == [text[: text.find(stop)]]
  ids = BYTES.encode("3 + 4")
  kept = model.generate([ids], max_new=12, stop=[stop, "never"])[0]
  assert 0 < len(kept) < 12 and text.startswith(BYTES.decode(kept)[:3])
  with pytest.raises(ConfigError, match="stop strings need one"):
    dataclasses.replace(model, tokenizer=None).generate([ids], stop="x")


def test_a_chat_says_what_generation_says(model):
  text = model.generate("3 + 4", max_new=12)
  talk = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
  asked = [*talk, {"role": "user", "content": "3 + 4"}]  # which the minis are asked alone
  stream = model.stream(asked, max_new=12)
  said = "".join(piece.text for piece in stream)
  expected = split_thought(text, answer_tags=True).answer
  assert said == stream.reply.answer == expected and stream.reply.closed
  assert model.chat("3 + 4", max_new=12, temperature=0).answer == said
  assert stream.reply.tokens == 12 and stream.reply.finish_reason == "length"
  opened = model.chat(asked, max_new=4, think=True)
  assert not opened.closed and opened.answer == ""


def test_a_chat_fills_the_context_and_no_more(model):
  reply = model.chat("a" * 60, max_new=100, temperature=0)
  assert reply.tokens == 4 and reply.finish_reason == "length"
  with pytest.raises(ConfigError, match="64 tokens, which leave no room"):
    model.chat("a" * 64)
  with pytest.raises(ConfigError, match="no tokenizer"):
    dataclasses.replace(model, tokenizer=None).chat("a")


def test_generation_without_a_tokenizer_takes_ids_only(model):
  bare = dataclasses.replace(model, tokenizer=None)
  assert len(bare.generate([[20, 21]], max_new=6)[0]) == 6
  with pytest.raises(ConfigError, match="no tokenizer"):
    bare.generate("text")


def test_an_exported_student_is_loaded(tmp_path):
  save_pretrained(tmp_path / "out", STUDENT, random_weights(STUDENT, 0))
  assert ds.load(tmp_path / "out").config == STUDENT
