"""Damaged checkpoints: each is refused by one sentence, none crashes, none is half-loaded.

Every change is drawn from a seed, so that a failure names the one that shows it.
"""

import json
import os
import re
import shutil

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.hub import safetensors as hub

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
DTYPES = (
  "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16", "I32", "U32",
  "F32", "F64", "I64", "U64", "F4", "", "f32", "float32",
)  # fmt: skip


def refused(folder, *named):
  """Loads the directory, which must end in one sentence; it names one of `named`, or a file."""
  with pytest.raises(ConfigError) as caught:
    hub.load_pretrained(folder)
  text = str(caught.value)
  assert len(text.splitlines()) == 1 and text.endswith("."), text
  assert any(name in text for name in (*named, str(folder), "tensor", "config.json")), text
  return text


def copied(source, tmp_path):
  shutil.copytree(source, tmp_path / "in")
  return tmp_path / "in"


def header_of(path):
  data = path.read_bytes()
  start = 8 + int.from_bytes(data[:8], "little")
  return json.loads(data[8:start]), data[start:]


def put(path, header, data, text=None):
  text = json.dumps(header).encode() if text is None else text
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def damaged_field(rng, field):
  """A tensor's description with one thing changed, to what cannot be right."""
  begin, end = field["data_offsets"]
  size = int(rng.choice([-128, -4, -1, 1, 4, 128, 2**40]))
  shape = list(field["shape"])
  axis = int(rng.integers(len(shape)))
  other = [name for name in DTYPES if name != field["dtype"]]
  odd = (-1, 1.5, "8", None, True, 10**30, [1])
  grown = [*shape[:axis], shape[axis] + int(rng.choice([-1, 1, 7])), *shape[axis + 1 :]]
  odder = [*shape[:axis], odd[rng.integers(len(odd))], *shape[axis + 1 :]]
  choices = [
    {"data_offsets": [begin + size, end]},
    {"data_offsets": [begin, end + size]},
    {"data_offsets": [begin + size, end + size]},
    {"data_offsets": [end, begin]},
    {"data_offsets": [begin]},
    {"data_offsets": [begin, odd[rng.integers(len(odd))]]},
    {"data_offsets": str(begin)},
    {"dtype": other[rng.integers(len(other))]},
    {"dtype": odd[rng.integers(len(odd))]},
    {"shape": grown},
    {"shape": odder},
    {"shape": [*shape, 1]},
    {"shape": [1, *shape]},
    {"shape": shape[:-1]},
    {"shape": str(shape)},
    {"extra": 1},
  ]
  return field | choices[rng.integers(len(choices))]


def damaged_header(rng, header, names):
  """A header with one tensor's entry changed, removed, renamed, or made twice."""
  name = names[rng.integers(len(names))]
  kind = rng.integers(6)
  changed = dict(header)
  if kind == 0:
    del changed[name]
  elif kind == 1:
    at = int(rng.integers(len(name)))
    changed[name[:at] + chr(ord(name[at]) + 1) + name[at + 1 :]] = changed.pop(name)
  elif kind == 2:
    changed[name + ".copy"] = changed[name]
  else:
    changed[name] = damaged_field(rng, changed[name])
  return changed


@pytest.mark.parametrize("seed", range(120))
def test_headers(seed, single_folder, tmp_path):
  rng = np.random.default_rng(seed)
  folder = copied(single_folder, tmp_path)
  header, data = header_of(folder / SINGLE)
  names = [name for name in header if name != "__metadata__"]
  put(folder / SINGLE, damaged_header(rng, header, names), data)
  refused(folder)


def test_headers_that_are_none(single_folder, tmp_path):
  folder = copied(single_folder, tmp_path)
  path = folder / SINGLE
  whole = path.read_bytes()
  header, data = header_of(path)
  text = json.dumps(header).encode()
  name = next(name for name in header if name != "__metadata__")
  twice = text[:-1] + b', "' + name.encode() + b'": ' + json.dumps(header[name]).encode() + b"}"
  other = header[name] | {"dtype": "\ud800"}
  for number, change in enumerate((
    lambda: put(path, header, data, b"[]"),
    lambda: put(path, header, data, b"{" * 100_000),
    lambda: put(path, header, data, text[:-1]),
    lambda: put(path, header, data, b"\xff" + text),
    lambda: put(path, header, data, twice),
    lambda: put(path, header | {"__metadata__": {"format": 1}}, data),
    lambda: put(path, header | {"__metadata__": "pt"}, data),
    lambda: put(path, header | {name: None}, data),
    lambda: put(path, header | {name: other}, data),
    lambda: path.write_bytes(b""),
    lambda: path.write_bytes(whole[:5]),
    lambda: path.write_bytes((2**63 + 5).to_bytes(8, "little") + whole[8:]),
    lambda: path.write_bytes((2**40).to_bytes(8, "little") + whole[8:]),
    lambda: path.write_bytes((len(text) - 1).to_bytes(8, "little") + whole[8:]),
    lambda: path.write_bytes(b"PK\3\4" + whole),
  )):  # fmt: skip
    change()
    assert SINGLE in refused(folder), number


@pytest.mark.parametrize("seed", range(40))
def test_sizes_and_bytes_of_the_header(seed, fp8_folder, tmp_path):
  """Cut off, grown, or one byte of length or header another."""
  rng = np.random.default_rng(seed)
  folder = copied(fp8_folder, tmp_path)
  paths = sorted(folder.glob("*.safetensors"))
  path = paths[rng.integers(len(paths))]
  data = bytearray(path.read_bytes())
  before = header_of(path)[0]
  if seed % 4 == 0:
    del data[int(rng.integers(len(data))) :]
  elif seed % 4 == 1:
    data += bytes(int(rng.integers(1, 100)))
  else:
    length = 8 + int.from_bytes(data[:8], "little")
    while True:  # until the change is one of meaning: a blank for a blank is none
      at = int(rng.integers(length))
      byte = data[at]
      data[at] = int(rng.integers(256))
      path.write_bytes(data)
      try:
        same = data[:8] == path.read_bytes()[:8] and header_of(path)[0] == before
        same = same or {**header_of(path)[0], "__metadata__": 0} == {**before, "__metadata__": 0}
      except ValueError:
        same = False
      if not same:
        break
      data[at] = byte
  path.write_bytes(data)
  refused(folder)


INDEX_CHANGES = {
  "upwards": lambda i, n: i["weight_map"].update({n: "../in/model-00001-of-00002.safetensors"}),
  "absolute": lambda i, n: i["weight_map"].update({n: "/etc/passwd"}),
  "absolute tensors": lambda i, n: i["weight_map"].update({n: "/tmp/model.safetensors"}),
  "a folder": lambda i, n: i["weight_map"].update({n: "sub/model.safetensors"}),
  "backwards": lambda i, n: i["weight_map"].update({n: "..\\model.safetensors"}),
  "absent": lambda i, n: i["weight_map"].update({n: "model-00003-of-00002.safetensors"}),
  "nothing": lambda i, n: i["weight_map"].update({n: ""}),
  "a zero byte": lambda i, n: i["weight_map"].update({n: "a\0.safetensors"}),
  "a long name": lambda i, n: i["weight_map"].update({n: "a" * 5000 + ".safetensors"}),
  "a pickle": lambda i, n: i["weight_map"].update({n: "pytorch_model.bin"}),
  "a number": lambda i, n: i["weight_map"].update({n: 1}),
  "a list": lambda i, n: i["weight_map"].update({n: ["model-00001-of-00002.safetensors"]}),
  "the other shard": lambda i, n: i["weight_map"].update({n: other_shard(i["weight_map"][n])}),
  "missing": lambda i, n: i["weight_map"].pop(n),
  "surplus": lambda i, n: i["weight_map"].update({n + "x": i["weight_map"][n]}),
  "no map": lambda i, n: i.pop("weight_map"),
  "an empty map": lambda i, n: i["weight_map"].clear(),
  "a list of names": lambda i, n: i.update(weight_map=list(i["weight_map"])),
  "another total": lambda i, n: i["metadata"].update(total_size=i["metadata"]["total_size"] - 1),
  "no total": lambda i, n: i["metadata"].update(total_size="all"),
  "metadata": lambda i, n: i.update(metadata=[]),
}


def other_shard(file):
  return file.replace("00001-of", "x").replace("00002-of", "00001-of").replace("x", "00002-of")


@pytest.mark.parametrize("case", INDEX_CHANGES)
def test_indexes(case, fp8_folder, tmp_path):
  folder = copied(fp8_folder, tmp_path)
  index = json.loads((folder / INDEX).read_text())
  names = sorted(index["weight_map"])
  name = names[np.random.default_rng(len(case)).integers(len(names))]
  INDEX_CHANGES[case](index, name)
  (folder / INDEX).write_text(json.dumps(index))
  refused(folder)


@pytest.mark.parametrize("file", [CONFIG, INDEX])
def test_texts(file, fp8_folder, tmp_path):
  """Cut off anywhere, a field given twice, no object, no UTF-8, numbers that are none."""
  folder = copied(fp8_folder, tmp_path)
  text = (folder / file).read_bytes()
  cuts = np.random.default_rng(0).integers(0, len(text) - 1, 10)
  first = re.match(rb'\{("\w+": )', text)[1]
  changes = [text[:cut] for cut in cuts]
  changes += [b"[" + text + b"]", b"\xfe" + text, b"null", b"{" + first + b"1, " + text[1:]]
  changes += [b'{"n": NaN, ' + text[1:], b'{"n": ' + b"9" * 5000 + b", " + text[1:]]
  changes += [b'{"n": ' + b"[" * 50_000, text + b"{}"]
  for change in changes:
    (folder / file).write_bytes(change)
    assert file in refused(folder)


def test_links_and_pickles(fp8_folder, single_folder, tmp_path):
  folder = copied(fp8_folder, tmp_path)
  for path in [*folder.glob("*.safetensors"), folder / CONFIG, folder / INDEX]:
    outside = tmp_path / path.name
    path.rename(outside)
    path.symlink_to(outside)
    assert "link" in refused(folder, path.name)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert path.name in refused(folder)
    path.unlink()
    outside.rename(path)
  hub.load_pretrained(folder)
  (folder / SINGLE).write_bytes((single_folder / SINGLE).read_bytes())
  assert "both" in refused(folder)
  for path in (*folder.glob("*.safetensors"), folder / INDEX):
    path.unlink()
  (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/evil'\ntR.")
  assert "pytorch_model.bin" in refused(folder) and hub.is_pretrained(folder)
  with pytest.raises(ConfigError, match="pytorch_model.bin"):
    hub.read_architecture(folder)


def test_the_cache_of_huggingface_hub_is_links_and_is_read(single_folder, tmp_path):
  snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  for number, path in enumerate(single_folder.iterdir()):
    shutil.copy(path, blobs / str(number))
    (snapshot / path.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
  hub.load_pretrained(snapshot)


CONFIG_CHANGES = {
  "no type": lambda c: c.pop("model_type"),
  "another type": lambda c: c.update(model_type="gpt_oss"),
  "a list of types": lambda c: c.update(model_type=["deepseek_v3"]),
  "remote code only": lambda c: c.update(model_type="evil", auto_map={"AutoModel": "x.Y"}),
  "wider": lambda c: c.update(hidden_size=161),
  "a layer more": lambda c: c.update(num_hidden_layers=3),
  "a billion layers": lambda c: c.update(num_hidden_layers=10**9),
  "a billion experts": lambda c: c.update(n_routed_experts=10**9),
  "a billion modules": lambda c: c.update(num_nextn_predict_layers=10**9),
  "an expert less": lambda c: c.update(n_routed_experts=2, n_group=1, topk_group=1),
  "no query latent": lambda c: c.update(q_lora_rank=None),
  "vast": lambda c: c.update(hidden_size=2**30),
  "beyond": lambda c: c.update(vocab_size=10**40),
  "no heads": lambda c: c.update(num_attention_heads=0, num_key_value_heads=0),
  "negative": lambda c: c.update(kv_lora_rank=-128),
  "infinite": lambda c: c.update(rope_theta=float("1e999")),
  "epsilon": lambda c: c.update(rms_norm_eps=-1),
  "theta": lambda c: c.update(
    rope_theta=1, rope_scaling={"type": "yarn", "factor": 4, "original_max_position_embeddings": 8}
  ),
  "context": lambda c: c.update(
    rope_scaling={"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}
  ),
  "another method": lambda c: c["quantization_config"].update(quant_method="awq"),
  "no method": lambda c: c["quantization_config"].pop("quant_method"),
  "another format": lambda c: c["quantization_config"].update(fmt="e5m2"),
  "other blocks": lambda c: c["quantization_config"].update(weight_block_size=[64, 64]),
  "no blocks": lambda c: c["quantization_config"].pop("weight_block_size"),
  "a text": lambda c: c.update(quantization_config="fp8"),
}


@pytest.mark.parametrize("case", CONFIG_CHANGES)
def test_configs(case, single_folder, tmp_path):
  folder = copied(single_folder, tmp_path)
  fields = json.loads((folder / CONFIG).read_text())
  CONFIG_CHANGES[case](fields)
  (folder / CONFIG).write_text(json.dumps(fields).replace("Infinity", "1e999"))
  refused(folder)


def test_wrong_types_of_every_field(single_folder, tmp_path):
  """Any field of config.json as any kind of JSON: it is refused, or means nothing to us."""
  folder = copied(single_folder, tmp_path)
  fields = json.loads((folder / CONFIG).read_text())
  for name in fields:
    for value in ([], {}, "x", -1, 0, 1e300, -0.5, True, [[1]], {"a": None}):
      (folder / CONFIG).write_text(json.dumps(fields | {name: value}))
      try:
        hub.read_architecture(folder)
      except ConfigError as error:
        assert len(str(error).splitlines()) == 1


NOT_FINITE = {"BF16": b"\x80\xff", "F32": b"\0\0\xc0\x7f", "F8_E4M3": b"\xff"}


@pytest.mark.parametrize("seed", range(12))
def test_values_that_are_no_finite_numbers(seed, single_folder, tmp_path):
  rng = np.random.default_rng(seed)
  folder = copied(single_folder, tmp_path)
  header, data = header_of(folder / SINGLE)
  kind = list(NOT_FINITE)[seed % 3]
  names = [n for n, field in header.items() if field.get("dtype") == kind]
  name = names[rng.integers(len(names))]
  begin, end = header[name]["data_offsets"]
  width = len(NOT_FINITE[kind])
  at = begin + width * int(rng.integers((end - begin) // width))
  put(folder / SINGLE, header, data[:at] + NOT_FINITE[kind] + data[at + width :])
  assert name in refused(folder)


def rewritten(folder, change):
  """The tensors of a single file after `change` of {name: (dtype, shape, bytes)}."""
  header, data = header_of(folder / SINGLE)
  held = {
    name: (field["dtype"], field["shape"], data[slice(*field["data_offsets"])])
    for name, field in header.items()
    if name != "__metadata__"
  }
  change(held)
  header, at = {}, 0
  for name, (dtype, shape, data) in held.items():
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
    at += len(data)
  put(folder / SINGLE, header, b"".join(data for _, _, data in held.values()))


UP = "model.layers.1.mlp.experts.2.up_proj.weight"
SCALE = UP + "_scale_inv"
TENSOR_CHANGES = {
  "no scale": (lambda t: t.pop(SCALE), UP),
  "no weight": (lambda t: t.pop(UP), UP),
  "a scale of bfloat16": (lambda t: t.update({UP: ("BF16", [72, 160], bytes(23_040))}), SCALE),
  "a bfloat16 expert": (lambda t: bfloat16_expert(t), UP),
  "FP8 embedding": (lambda t: fp8_embedding(t), "model.embed_tokens.weight"),
  "a huge scale": (lambda t: t.update({SCALE: ("F32", [1, 2], b"\xff\xff\x7f\x7f" * 2)}), SCALE),
  "a scale too many": (lambda t: t.update({SCALE: ("F32", [1, 3], bytes(12))}), SCALE),
  "a scale in halves": (lambda t: t.update({SCALE: ("BF16", [1, 2], bytes(4))}), SCALE),
  "float16 among bfloat16": (
    lambda t: t.update({"model.norm.weight": ("F16", [160], bytes(320))}),
    "model.norm.weight",
  ),
  "another copy": (
    lambda t: t.update({"model.layers.2.embed_tokens.weight": ("BF16", [64, 160], bytes(20_480))}),
    "model.layers.2.embed_tokens.weight",
  ),
  "a surplus": (lambda t: t.update({"model.layers.9.x": ("F32", [1], bytes(4))}), "layers.9.x"),
}


def bfloat16_expert(tensors):
  tensors[UP] = ("BF16", [72, 160], bytes(23_040))
  del tensors[SCALE]


def fp8_embedding(tensors):
  name = "model.embed_tokens.weight"
  tensors[name] = ("F8_E4M3", [64, 160], bytes(10_240))
  tensors[name + "_scale_inv"] = ("F32", [1, 2], bytes(8))


@pytest.mark.parametrize("case", TENSOR_CHANGES)
def test_tensors_that_do_not_go_together(case, single_folder, tmp_path):
  change, named = TENSOR_CHANGES[case]
  folder = copied(single_folder, tmp_path)
  rewritten(folder, change)
  assert named in refused(folder)
