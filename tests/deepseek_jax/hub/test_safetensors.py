"""Writing a directory and reading it back is exact; damaged ones are refused by name."""

import contextlib
import dataclasses
import functools
import json
import logging
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from deepseek_jax.config import ConfigError
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub import safetensors as hub
from deepseek_jax.presets import preset
from tests.talker import write_tokenizer

V3 = dataclasses.replace(preset("v3_mini"), mtp_depth=2, layers=3)
V2 = dataclasses.replace(
  V3,
  mtp_depth=0,
  attention=dataclasses.replace(V3.attention, q_latent=None),
  moe=dataclasses.replace(
    V3.moe, scoring="softmax", group_score="max", selection_bias=False, normalize=False
  ),
)
TIED = dataclasses.replace(V3, tied=True, mtp_depth=1)
DENSE_MLA = dataclasses.replace(V3, moe=None, mtp_depth=1)
LLAMA = dataclasses.replace(preset("smollm2_135m"), vocab=64, layers=2, init_std=None)
QWEN = dataclasses.replace(
  LLAMA, tied=False, attention=dataclasses.replace(LLAMA.attention, qkv_bias=True)
)


@functools.cache
def random_weights(config, seed=0):
  """Random leaves, and router biases where the architecture has them."""
  rng = np.random.default_rng(seed)
  weights = jax.tree.map(
    lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape), "float32"),
    hub.abstract_weights(config),
  )
  if config.moe is not None and not config.moe.selection_bias:
    weights = weights.replace(router_bias_LE=0 * weights.router_bias_LE)
  return weights


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype and np.array_equal(x, y)


@pytest.mark.parametrize("config", [V3, V2, TIED, DENSE_MLA, LLAMA, QWEN])
def test_round_trip_is_exact(config, tmp_path):
  weights = random_weights(config)
  hub.save_pretrained(tmp_path / "out", config, weights, load_tokenizer("byte"))
  read_config, read, tokenizer = hub.load_pretrained(tmp_path / "out")
  assert read_config == config == hub.read_architecture(tmp_path / "out")
  assert_same(read, weights)
  assert tokenizer.encode("αβ c") == load_tokenizer("byte").encode("αβ c")
  assert hub.is_pretrained(tmp_path / "out") and not hub.is_pretrained(tmp_path)


def test_what_is_written(tmp_path):
  tokenizer = load_tokenizer("byte")
  hub.save_pretrained(tmp_path / "out", V3, random_weights(V3), tokenizer, dtype="bfloat16")
  with safe_open(tmp_path / "out" / "model.safetensors", "numpy") as file:
    assert file.metadata() == {"format": "pt"}
    dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
  biases = [name for name in dtypes if name.endswith("e_score_correction_bias")]
  assert len(biases) == 4 and all(dtypes.pop(name) == "F32" for name in biases)
  assert set(dtypes.values()) == {"BF16"}
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["architectures"] == ["DeepseekV3ForCausalLM"]
  assert config["torch_dtype"] == "bfloat16" and config["eos_token_id"] == tokenizer.eos_id
  generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
  assert generation["eos_token_id"] == tokenizer.eos_id and generation["temperature"] == 0.6
  assert (tmp_path / "out" / "tokenizer.json").exists()


def test_bfloat16_is_the_nearest(tmp_path):
  weights = random_weights(V3)
  hub.save_pretrained(tmp_path / "out", V3, weights, dtype="bfloat16")
  _, read, tokenizer = hub.load_pretrained(tmp_path / "out")
  assert tokenizer is None
  nearest = jax.tree.map(
    lambda x: jax.numpy.asarray(np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)),
    weights.params,
  )
  assert_same(read.params, nearest)
  assert np.array_equal(read.router_bias_LE, weights.router_bias_LE)


def test_shards(tmp_path):
  weights = random_weights(V3)
  hub.save_pretrained(tmp_path / "out", V3, weights, shard_bytes=200_000)
  files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
  assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
  held = {name: f for f in files for name in load_file(tmp_path / "out" / f)}
  index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
  assert index["weight_map"] == held
  sizes = [sum(x.nbytes for x in load_file(tmp_path / "out" / f).values()) for f in files]
  assert sum(sizes) == index["metadata"]["total_size"]
  assert all(
    s <= 200_000 or len(load_file(tmp_path / "out" / f)) == 1 for s, f in zip(sizes, files)
  )
  assert_same(hub.load_pretrained(tmp_path / "out")[1], weights)
  (tmp_path / "out" / files[1]).unlink()
  with pytest.raises(ConfigError, match=files[1]):
    hub.load_pretrained(tmp_path / "out")


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
  out = tmp_path / "out"
  hub.save_pretrained(out, LLAMA, random_weights(LLAMA), shard_bytes=100_000)
  hub.save_pretrained(out, QWEN, random_weights(QWEN))
  assert hub.load_pretrained(out)[0] == QWEN
  assert [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]
  (out / "notes.txt").write_text("mine")
  with pytest.raises(ConfigError, match="notes.txt"):
    hub.save_pretrained(out, QWEN, random_weights(QWEN))
  assert (out / "notes.txt").exists() and [p.name for p in tmp_path.iterdir()] == ["out"]


COMING = ("tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt", "LICENSE",
          "LICENSE-CODE", "NOTICE.txt", "chat_template.jinja")  # fmt: skip


def test_what_came_beside_the_tokenizer_goes_out_again(tmp_path):
  pytest.importorskip("tokenizers")
  source, out = tmp_path / "in", tmp_path / "out"
  hub.save_pretrained(source, LLAMA, random_weights(LLAMA))
  write_tokenizer(source)
  (source / "SHA256SUMS").unlink()
  for name in COMING:
    (source / name).write_text(f"{{}} of {name}" if name.endswith("jinja") else "{}")
  (source / "additional_chat_templates").mkdir()
  (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
  (source / "modeling_llama.py").write_text("never run, never carried")
  (tmp_path / "secret").write_text("of someone else")
  (source / "LICENSE-LINK").symlink_to(tmp_path / "secret")
  tokenizer = load_tokenizer(source)
  for _ in range(2):  # the second export replaces the first
    hub.save_pretrained(out, LLAMA, random_weights(LLAMA), tokenizer)
  for name in (*COMING, "additional_chat_templates/tool_use.jinja", "tokenizer.json"):
    assert (out / name).read_bytes() == (source / name).read_bytes()
  assert not (out / "modeling_llama.py").exists() and not (out / "LICENSE-LINK").exists()
  hub.load_pretrained(out)[2].save(tmp_path / "again")
  names = {p.name for p in (tmp_path / "again").iterdir()}
  assert names >= {*COMING, "additional_chat_templates"}


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_a_tokenizer_in_an_older_form_is_named(name, tmp_path, caplog):
  hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA))
  (tmp_path / "out" / "SHA256SUMS").unlink()
  (tmp_path / "out" / name).write_text("{}")
  with told(caplog) as said:
    assert hub.load_pretrained(tmp_path / "out")[2] is None
  assert f"out/{name} is a tokenizer in an older form" in said() and "save_pretrained" in said()
  with pytest.raises(ConfigError, match=f"{name} is a tokenizer in an older form"):
    load_tokenizer(tmp_path / "out")


def test_a_directory_that_lacks_a_part_says_which(tmp_path, caplog):
  out = tmp_path / "out"
  hub.save_pretrained(out, LLAMA, random_weights(LLAMA), shard_bytes=100_000)
  index = (out / "model.safetensors.index.json").read_bytes()
  (out / "SHA256SUMS").unlink()
  (out / "model.safetensors.index.json").unlink()
  assert hub.is_pretrained(out)
  with pytest.raises(ConfigError, match="holds model-00001-of-0.* but no model.safetensors.index"):
    hub.load_pretrained(out)
  (out / "model.safetensors.index.json").write_bytes(index)
  adapter = json.dumps({"base_model_name_or_path": "meta/llama", "peft_type": "LORA"})
  (out / "adapter_config.json").write_text(adapter)
  with told(caplog) as said:
    hub.load_pretrained(out)
  assert "adapter_config.json: the adapter beside the model is left out" in said()
  lora = tmp_path / "lora"
  lora.mkdir()
  (lora / "adapter_config.json").write_text(adapter)
  (lora / "adapter_model.safetensors").write_bytes(b"")
  assert hub.is_pretrained(lora)
  with pytest.raises(ConfigError, match="lora is a PEFT adapter of 'meta/llama', .*_and_unload"):
    hub.load_pretrained(lora)
  (lora / "checkpoints").mkdir()
  assert not hub.is_pretrained(lora)


@contextlib.contextmanager
def told(caplog):
  """What is logged under hub's name, which does not propagate."""
  logger = logging.getLogger("deepseek_jax.hub")
  logger.addHandler(caplog.handler)
  try:
    yield lambda: caplog.text
  finally:
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("prefix", ["base_model.model.", "language_model.", "module."])
def test_a_prefix_of_the_tensors_names_is_told(prefix, tmp_path):
  hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA))
  (tmp_path / "out" / "SHA256SUMS").unlink()
  file = tmp_path / "out" / "model.safetensors"
  save_file({prefix + name: x for name, x in load_file(file).items()}, file)
  there = f"out has no tensor 'model.embed_tokens.weight' but '{prefix}model.embed_tokens.weight'"
  with pytest.raises(ConfigError, match=re.escape(there)):
    hub.load_pretrained(tmp_path / "out")
  save_file({name.replace("embed_tokens", "wte"): x for name, x in load_file(file).items()}, file)
  with pytest.raises(
    ConfigError, match="out has no tensor 'model.embed_tokens.weight'; .* nearest"
  ):
    hub.load_pretrained(tmp_path / "out")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_called_one(name, tmp_path):
  hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA))
  write_tokenizer(tmp_path / "out")
  (tmp_path / "out" / "SHA256SUMS").unlink()
  pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
  (tmp_path / "out" / name).write_text(pointer)
  with pytest.raises(ConfigError, match=f"out/{name} is a git-lfs pointer.* git lfs pull"):
    hub.load_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
  "change, told",
  [
    ({"model_type": None}, "config.json has no model_type; supported are"),
    ({"model_type": "mamba"}, "config.json has model_type 'mamba'"),
    ({"mlp_bias": True}, "config.json has mlp_bias"),
    ({"num_hidden_layers": 10**6}, "config.json has num_hidden_layers"),
    ({"quantization_config": {"quant_method": "awq"}}, "config.json has quantization_config"),
  ],
)
def test_a_refused_config_is_named_with_its_folder(change, told, tmp_path):
  hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA))
  (tmp_path / "out" / "SHA256SUMS").unlink()
  path = tmp_path / "out" / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/out/{told}")) as caught:
    hub.load_pretrained(tmp_path / "out")
  assert str(caught.value).count(str(tmp_path)) == 1


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
  hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA))
  before = (tmp_path / "out" / "model.safetensors").read_bytes()

  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(hub, "write_file", full)
  with pytest.raises(ConfigError, match="No space left"):
    hub.save_pretrained(tmp_path / "out", QWEN, random_weights(QWEN))
  with pytest.raises(ConfigError, match="No space left"):
    hub.save_pretrained(tmp_path / "new", QWEN, random_weights(QWEN))
  assert [p.name for p in tmp_path.iterdir()] == ["out"]
  assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_bad_arguments(tmp_path):
  with pytest.raises(ConfigError, match="float16"):
    hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA), dtype="float16")
  with pytest.raises(ConfigError, match="shard_bytes"):
    hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA), shard_bytes=0)
  with pytest.raises(ConfigError, match="float64"):
    hub.load_pretrained(tmp_path, dtype="float64")
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="is a file"):
    hub.save_pretrained(tmp_path / "file", LLAMA, random_weights(LLAMA))
  with pytest.raises(ConfigError, match="config.json"):
    hub.load_pretrained(tmp_path / "absent")


@pytest.mark.parametrize(
  ("dtype", "value"),
  [("float32", np.nan), ("bfloat16", 3.4e38), ("fp8", np.inf)],  # the second only in bfloat16
)
def test_weights_that_are_no_finite_numbers_are_not_exported(dtype, value, tmp_path):
  weights = random_weights(DENSE_MLA)
  params = jax.tree.map(lambda x: x, weights.params)
  params["dense"]["ffn"]["up_DF"] = params["dense"]["ffn"]["up_DF"].at[1, 2, 3].set(value)
  with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.up_proj.*not exported"):
    hub.save_pretrained(tmp_path / "out", DENSE_MLA, weights.replace(params=params), dtype=dtype)
  assert not list(tmp_path.iterdir())


@pytest.fixture
def exported(tmp_path):
  hub.save_pretrained(tmp_path / "out", V3, random_weights(V3))
  (tmp_path / "out" / "SHA256SUMS").unlink()
  return tmp_path / "out"


def change_tensors(folder, change):
  tensors = load_file(folder / "model.safetensors")
  change(tensors)
  save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
  ("change", "named"),
  [
    (lambda t: t.pop("model.layers.1.mlp.experts.3.up_proj.weight"), r"experts\.3\.up_proj"),
    (lambda t: t.pop("model.layers.4.eh_proj.weight"), r"4\.eh_proj"),
    (lambda t: t.update({"model.layers.1.mlp.extra": np.ones(2)}), r"mlp\.extra"),
    (lambda t: t.update({"model.norm.weight": np.ones(7, np.float32)}), r"model\.norm.*\[7\]"),
    (lambda t: t.update({"model.norm.weight": np.ones(96, np.int32)}), r"model\.norm.*I32"),
    (
      lambda t: t.update({"model.layers.3.embed_tokens.weight": np.ones((512, 96), np.float32)}),
      r"3\.embed_tokens.*copy",
    ),
  ],
)
def test_wrong_tensors_are_named(exported, change, named):
  change_tensors(exported, change)
  with pytest.raises(ConfigError, match=named):
    hub.load_pretrained(exported)


def test_absent_copies_and_modules_are_no_error(exported):
  """vLLM's converters drop the copies; transformers drops whole MTP modules when it saves."""
  change_tensors(exported, lambda t: t.pop("model.layers.3.shared_head.head.weight"))
  config, weights, _ = hub.load_pretrained(exported)
  assert config == V3
  assert_same(weights, random_weights(V3))
  layers = ("model.layers.3.", "model.layers.4.")
  change_tensors(exported, lambda t: [t.pop(n) for n in list(t) if n.startswith(layers)])
  config, weights, _ = hub.load_pretrained(exported)
  assert config == dataclasses.replace(V3, mtp_depth=0)
  assert np.array_equal(weights.router_bias_LE, random_weights(V3).router_bias_LE[:2])


def test_what_is_left_out_of_rope_scaling_is_told_once(exported, caplog):
  fields = json.loads((exported / "config.json").read_text())
  yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
  for more in ({}, {"attn_factor": 0.88}, {"attn_factor": 0.88}):
    (exported / "config.json").write_text(json.dumps(fields | {"rope_scaling": yarn | more}))
    config = hub.read_architecture(exported)
    assert (config.rope.scaling, config.rope.mscale) == ("yarn", 1.0)
    assert caplog.text.count("rope_scaling's attn_factor is left out") == bool(more)


def test_half_precision_and_stored_copies_of_a_tied_head_are_read(tmp_path):
  hub.save_pretrained(tmp_path / "out", LLAMA, random_weights(LLAMA))
  (tmp_path / "out" / "SHA256SUMS").unlink()

  def older(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(32, np.float32)
    for name in tensors:
      tensors[name] = tensors[name].astype(np.float16)

  change_tensors(tmp_path / "out", older)
  _, read, _ = hub.load_pretrained(tmp_path / "out")
  half = jax.tree.map(lambda x: x.astype("float16").astype("float32"), random_weights(LLAMA))
  assert_same(read, half)


def test_damaged_files_are_named(exported):
  (exported / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header....")
  with pytest.raises(ConfigError, match="model.safetensors"):
    hub.load_pretrained(exported)
  (exported / "model.safetensors").unlink()
  with pytest.raises(ConfigError, match="neither"):
    hub.load_pretrained(exported)
  (exported / "config.json").write_text("{")
  with pytest.raises(ConfigError, match="config.json is not readable JSON"):
    hub.load_pretrained(exported)
