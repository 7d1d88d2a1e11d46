"""GGUF files come in exactly as the converter put them there; damaged ones are refused by name."""

import dataclasses
import functools
import struct

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepseek_jax as ds
from deepseek_jax.config import ConfigError, GQAConfig, ModelConfig, RopeConfig
from deepseek_jax.data.asking import sampling_defaults
from deepseek_jax.data.conversation import stop_ids
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub import names
from deepseek_jax.hub.gguf import is_gguf, load_gguf, read_gguf_architecture
from deepseek_jax.hub.safetensors import abstract_weights
from deepseek_jax.ops.rope import frequencies
from deepseek_jax.sharding import MeshConfig, make_mesh

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
from tests import gguf_files  # noqa: E402

VOCAB = len(gguf_files.vocabulary()[0])
PLAIN = ModelConfig(
  vocab=VOCAB, d_model=32, layers=3, heads=4, dense_ff=64, attention=GQAConfig(2, 24),
  rope=RopeConfig(theta=5e4), norm_eps=1e-5, max_context=64, init_std=0.02,
)  # fmt: skip
TIED = dataclasses.replace(PLAIN, tied=True, attention=GQAConfig(4, 8))
KINDS = gguf.GGMLQuantizationType
MODEL = {**gguf_files.metadata(PLAIN), **gguf_files.tokenizer_metadata()}


@functools.cache
def leaves(config):
  """Random leaves by their paths."""
  rng = np.random.default_rng(0)
  return {
    path: rng.standard_normal(leaf.shape).astype(np.float32)
    for path, leaf in names.flatten(abstract_weights(config)).items()
  }


def tensors(config):
  """The tensors of a checkpoint with these leaves."""
  return {t.name: t.encode(leaves(config)) for t in names.tensors(config) if t.written}


def assert_loads(path, config, wanted):
  found, weights, tokenizer = load_gguf(path)
  assert found == config == read_gguf_architecture(path)
  for leaf, array in names.flatten(weights).items():
    assert isinstance(array, jax.Array) and np.array_equal(array, wanted[leaf]), leaf
  return tokenizer


@pytest.mark.parametrize("config", [PLAIN, TIED])
def test_every_leaf_is_what_was_written(config, tmp_path):
  path = tmp_path / "model.gguf"
  gguf_files.write(path, gguf_files.metadata(config), tensors(config))
  assert is_gguf(path)
  assert assert_loads(path, config, leaves(config)) is None


@pytest.mark.parametrize("kind", [KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q4_1, KINDS.Q5_0])
def test_blocks_become_the_numbers_they_stand_for(kind, tmp_path):
  """Rows are quantised after they are reordered, which per row is the same as before."""
  matrices = {name: kind for name, array in tensors(PLAIN).items() if array.ndim == 2}
  gguf_files.write(tmp_path / "m.gguf", gguf_files.metadata(PLAIN), tensors(PLAIN), matrices)
  wanted = {path: leaf.copy() for path, leaf in leaves(PLAIN).items()}
  for tensor in names.tensors(PLAIN):
    if tensor.name in matrices:
      blocks = gguf.quantize(tensor.encode(wanted), kind)
      tensor.decode(gguf.dequantize(blocks, kind), wanted)
  assert_loads(tmp_path / "m.gguf", PLAIN, wanted)
  path = ("params", "embed_VD")
  assert 0 < np.abs(wanted[path] - leaves(PLAIN)[path]).max() < 0.5


def test_leaves_lie_on_the_mesh(tmp_path):
  gguf_files.write(tmp_path / "m.gguf", gguf_files.metadata(PLAIN), tensors(PLAIN))
  mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
  _, weights, _ = load_gguf(tmp_path / "m.gguf", mesh)
  queries = weights.params["dense"]["attention"]["q_DHK"]
  assert len({str(shard.index) for shard in queries.addressable_shards}) == 8
  assert np.array_equal(queries, leaves(PLAIN)[("params", "dense", "attention", "q_DHK")])


LLAMA3 = RopeConfig(5e5, "llama3", 8.0, 8192)
YARN = RopeConfig(5e4, "yarn", 4.0, 16)


def test_rope_scaling(tmp_path):
  """Llama 3's is kept as a tensor of divisors, YaRN's as metadata; the rest is refused."""
  config = dataclasses.replace(PLAIN, rope=LLAMA3)
  plain = frequencies(RopeConfig(5e5), 24)
  divisors = (plain / frequencies(LLAMA3, 24)).astype(np.float32)
  freqs = {"rope_freqs.weight": divisors}
  assert divisors.min() == 1 and divisors.max() == 8
  gguf_files.write(tmp_path / "m.gguf", gguf_files.metadata(config), tensors(config) | freqs)
  assert read_gguf_architecture(tmp_path / "m.gguf") == config
  freqs["rope_freqs.weight"] = divisors[::-1].copy()
  gguf_files.write(tmp_path / "m.gguf", gguf_files.metadata(config), tensors(config) | freqs)
  with pytest.raises(ConfigError, match="rope_freqs.weight.*Llama 3"):
    load_gguf(tmp_path / "m.gguf")
  config = dataclasses.replace(PLAIN, rope=YARN)
  scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 16}
  fields = {f"llama.rope.scaling.{name}": value for name, value in scaling.items()}
  gguf_files.write(tmp_path / "m.gguf", gguf_files.metadata(config) | fields, tensors(config))
  assert read_gguf_architecture(tmp_path / "m.gguf") == config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A sound file with a tokenizer."""
  path = tmp_path_factory.mktemp("whole") / "model.gguf"
  gguf_files.write(path, MODEL, tensors(PLAIN))
  return path


def test_tokenizer(whole, tmp_path):
  tokenizer = assert_loads(whole, PLAIN, leaves(PLAIN))
  tokens, _ = gguf_files.vocabulary()
  spelled = [tokens[i] for i in tokenizer.encode("abc ab12 <think>ef<|end|>")]
  assert spelled == ["abc", "Ġab", "1", "2", "Ġ", "<think>", "ef", "<|end|>"]
  assert tokenizer.decode(tokenizer.encode("abc ab12 <think>ef<|end|>")) == "abc ab12 <think>ef"
  assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (1, None, VOCAB)
  tokenizer.save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert again.encode("abc ab12 <think>") == tokenizer.encode("abc ab12 <think>")
  assert gguf_files.TEMPLATE[:20] in (tmp_path / "tokenizer_config.json").read_text()


def test_every_end_token_and_the_makers_sampling_are_read(tmp_path):
  more = {
    "tokenizer.ggml.eot_token_id": 2,
    "general.sampling.temp": 0.5,
    "general.sampling.top_k": 9,
  }
  fields = gguf_files.metadata(PLAIN) | gguf_files.tokenizer_metadata() | more
  gguf_files.write(tmp_path / "m.gguf", fields, tensors(PLAIN))
  _, _, tokenizer = load_gguf(tmp_path / "m.gguf")
  assert stop_ids(tokenizer)[:2] == (1, 2)
  sampling = sampling_defaults(tokenizer)
  assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (0.5, 1.0, 9)
  tokenizer.save(tmp_path / "out")
  assert stop_ids(load_tokenizer(tmp_path / "out")) == stop_ids(tokenizer)


def test_llama3_texts_begin_with_bos_and_numbers_in_threes(tmp_path):
  fields = gguf_files.metadata(PLAIN) | gguf_files.tokenizer_metadata("llama-bpe")
  gguf_files.write(tmp_path / "m.gguf", fields, tensors(PLAIN))
  _, _, tokenizer = load_gguf(tmp_path / "m.gguf")
  tokens, _ = gguf_files.vocabulary()
  assert [tokens[i] for i in tokenizer.encode("ab 1212")] == ["ab", "Ġ", "12", "1", "2"]
  assert tokenizer.bos_id == 0


def test_a_tokenizer_that_cannot_be_built_is_read_from_beside(tmp_path):
  fields = MODEL | {"tokenizer.ggml.pre": "unheard-of"}
  gguf_files.write(tmp_path / "m.gguf", fields, tensors(PLAIN))
  with pytest.raises(ConfigError, match="unheard-of.*tokenizer.json"):
    load_gguf(tmp_path / "m.gguf")
  load_tokenizer("byte").save(tmp_path)
  assert load_gguf(tmp_path / "m.gguf")[2].encode("a") == load_tokenizer("byte").encode("a")


def test_load_and_save(whole, tmp_path):
  """The doors take the file itself; what is exported is the same model."""
  model = ds.load(whole)
  model.save(tmp_path / "out")
  again = ds.load(tmp_path / "out")
  assert again.config == model.config and again.tokenizer.eos_id == model.tokenizer.eos_id
  tokens_BT = np.arange(12).reshape(2, 6)
  assert np.array_equal(model.logits(tokens_BT), again.logits(tokens_BT))


REFUSED = {
  "another architecture": ({"architecture": "qwen2"}, {}, {}, "'qwen2'"),
  "experts": ({}, {"llama.expert_count": 8}, {}, "llama.expert_count = 8"),
  "a window": ({}, {"llama.attention.sliding_window": 8}, {}, "sliding_window"),
  "split": ({}, {"split.count": 2}, {}, "split.count"),
  "part of a head turned": ({}, {"llama.rope.dimension_count": 6}, {}, "dimension_count"),
  "linear scaling": ({}, {"llama.rope.scaling.type": "linear"}, {}, "'linear'"),
  "heads per layer": ({}, {"llama.attention.head_count_kv": [2, 2, 1]}, {}, "head_count_kv"),
  "many layers": ({}, {"llama.block_count": 2**32 - 1}, {}, "block_count"),
  "a wide model": ({}, {"llama.embedding_length": 2**32 - 1}, {}, "embedding_length"),
  "no epsilon": ({}, {"llama.attention.layer_norm_rms_epsilon": None}, {}, "epsilon"),
  "another width": ({}, {"llama.feed_forward_length": 65}, {}, r"ffn_gate.*\[65, 32\]"),
  "indivisible heads": ({}, {"llama.attention.head_count_kv": 3}, {}, "kv_heads"),
  "no end token": ({}, {"tokenizer.ggml.eos_token_id": None}, {}, "eos_token_id"),
  "an end token beyond": ({}, {"tokenizer.ggml.eos_token_id": 900}, {}, "eos_token_id"),
  "a merge of nothing": ({}, {"tokenizer.ggml.merges": ["a b", "z q"]}, {}, "tokenizer in"),
  "a token twice": ({}, {"tokenizer.ggml.tokens": ["a", "a"]}, {}, "ggml.tokens"),
  "no embedding": ({}, {}, {"model.embed_tokens.weight": None}, "token_embd"),
  "a norm too few": ({}, {}, {"model.norm.weight": None}, "output_norm"),
  "a bias": ({}, {}, {"blk.0.attn_q.bias": np.zeros(96, np.float32)}, "attn_q.bias"),
  "no number": ({}, {}, {"model.norm.weight": np.full(32, np.nan, np.float32)}, "output_norm"),
  "integers": ({}, {}, {"model.norm.weight": np.ones(32, np.int32)}, "output_norm.*I32"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(case, tmp_path):
  how, fields, changed, named = REFUSED[case]
  fields = {key: value for key, value in (MODEL | fields).items() if value is not None}
  held = {name: t for name, t in (tensors(PLAIN) | changed).items() if t is not None}
  gguf_files.write(tmp_path / "m.gguf", fields, held, **how)
  with pytest.raises(ConfigError, match=named) as caught:
    load_gguf(tmp_path / "m.gguf")
  assert str(caught.value).count("\n") == 0
  assert str(caught.value).count("m.gguf") == 1


def test_a_name_without_a_model_is_refused(tmp_path):
  (tmp_path / "empty.gguf").write_bytes(b"")
  with pytest.raises(ConfigError, match="empty.gguf"):
    ds.load(tmp_path / "empty.gguf")
  with pytest.raises(ConfigError, match="absent.gguf"):
    ds.load(tmp_path / "absent.gguf")
  assert not is_gguf(tmp_path) and not is_gguf(tmp_path / "absent.gguf")


def header_length(data: bytes) -> int:
  """Where the last tensor's entry ends, found by its name."""
  name = gguf_files.gguf_name(list(tensors(PLAIN))[-1]).encode()
  return data.rindex(name) + len(name) + 4 + 2 * 8 + 4 + 8


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_whole(whole, tmp_path_factory, data):
  """A cut always is refused; a changed number in the header never crashes, hangs or half loads."""
  content = bytearray(whole.read_bytes())
  at = data.draw(st.integers(0, header_length(bytes(content)) - 8))
  cut = data.draw(st.booleans())
  if cut:
    content = content[: data.draw(st.integers(0, len(content) - 1))]
  else:
    value = data.draw(st.sampled_from((0, 1, 7, 255, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
    content[at : at + 8] = struct.pack("<Q", value)
  path = tmp_path_factory.getbasetemp() / "damaged.gguf"
  path.write_bytes(content)
  try:
    config, weights, _ = load_gguf(path)
  except ConfigError as error:
    assert "\n" not in str(error)
    return
  assert not cut, "a part of a file was read"
  assert jax.tree.structure(weights) == jax.tree.structure(abstract_weights(config))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))
