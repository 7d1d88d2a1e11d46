"""Files as people write them: splits, encodings, and records that are left out and told."""

import gzip
import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.pipeline import open_batches, open_source, read_samples
from deepseek_jax.data.records import whole_text
from deepseek_jax.evaluate.file_benchmark import load_file_benchmark


def texts(path, source="jsonl", **fields):
  corpus = open_source(DataConfig(source=source, path=str(path), **fields))
  return [corpus[i].text for i in range(len(corpus))]


def write(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps({"text": r}) + "\n" for r in records), encoding="utf-8")


@pytest.mark.parametrize("source", ["hf", "jsonl"])
def test_only_the_named_split_is_read(tmp_path, source):
  write(tmp_path / "train_sft-0.jsonl", "a")
  write(tmp_path / "test_sft-0.jsonl", "b")
  assert texts(tmp_path, source) == ["a"]
  assert texts(tmp_path, source, split="test_sft") == ["b"]
  with pytest.raises(ConfigError, match="test_sft, train_sft"):
    texts(tmp_path, source, split="validation")
  write(tmp_path / "train_gen-0.jsonl", "c")
  with pytest.raises(ConfigError, match="several splits"):
    texts(tmp_path, source)


def test_of_several_configurations_one_has_to_be_named(tmp_path):
  for folder in ("data", "extended"):
    write(tmp_path / folder / "train-00000-of-00001.jsonl", folder)
  with pytest.raises(ConfigError, match="data/train, extended/train"):
    texts(tmp_path, "hf")
  assert texts(tmp_path, "hf", split="extended/train") == ["extended"]
  assert texts(tmp_path / "data", "hf") == ["data"]


def test_the_cards_configurations_are_heeded(tmp_path):
  write(tmp_path / "x" / "one.jsonl", "one")
  write(tmp_path / "x" / "two.jsonl", "two")
  files = "  data_files:\n  - split: train\n    path: x/{}.jsonl\n"
  entries = "".join(f"- config_name: {n}\n{files.format(n)}" for n in ("one", "two"))
  (tmp_path / "README.md").write_text(f"---\nconfigs:\n{entries}---\n# A card\n")
  with pytest.raises(ConfigError, match="one/train, two/train"):
    texts(tmp_path, "hf")
  assert texts(tmp_path, "hf", split="two/train") == ["two"]
  default = entries.replace("config_name: one", "config_name: default")
  (tmp_path / "README.md").write_text(f"---\nconfigs:\n{default}---\n# A card\n")
  assert texts(tmp_path, "hf") == ["one"] and texts(tmp_path, "hf", split="two/train") == ["two"]


def with_card(folder, configs):
  """The folder with three files and a README.md whose head has these configs."""
  for name in ("a", "b", "c"):
    write(folder / f"{name}.jsonl", name)
  card = f"\ufeff---\nconfigs: {configs}\n---\n# A card\n"  # some editors begin with such a mark
  (folder / "README.md").write_text(card, encoding="utf-8")
  return folder


@pytest.mark.parametrize(
  "files",
  [
    "{train: [a.jsonl, b.jsonl], test: c.jsonl}",
    "[{split: train, path: [a.jsonl, b.jsonl]}, {split: test, path: c.jsonl}]",
    "[{split: train, path: a.jsonl}, {path: /b.jsonl}, {split: test, path: '[c].jsonl'}]",
  ],
)
def test_a_cards_files_in_every_form(tmp_path, files):
  folder = with_card(tmp_path, f"[{{config_name: x, data_files: {files}}}]")
  assert texts(folder, "hf") == ["a", "b"]
  assert texts(folder, "hf", split="test") == ["c"]


@pytest.mark.parametrize("files", ["a.jsonl", "[a.jsonl]", "{split: train, path: a.jsonl}"])
def test_a_cards_files_without_splits_are_train(tmp_path, files):
  folder = with_card(tmp_path, f"[{{config_name: x, data_files: {files}}}]")
  assert texts(folder, "hf") == ["a"]
  with pytest.raises(ConfigError, match="its splits are train"):
    texts(folder, "hf", split="test")


@pytest.mark.parametrize(
  "configs, field",
  [
    ("5", "configs"),
    ("{x: 5}", "configs"),
    ("[5]", "configs"),
    ("[{data_files: a.jsonl}]", "config_name"),
    ("2024-99-99", "no YAML"),
    ("[", "no YAML"),
    ("[{config_name: x, data_dir: 5}]", "data_dir"),
    *(
      (f"[{{config_name: x, data_files: {files}}}]", "data_files")
      for files in (
        *("''", "'**x'", "'.'", "/", "5", "[5]", "[{split: a}]", "[{path: 5}]", "[{path: [5]}]"),
        *("{train: 5}", "{train: {path: a.jsonl}}", "[{path: null}]"),
      )
    ),
  ],
)
def test_a_card_that_cannot_be_followed_is_named_with_its_field(tmp_path, configs, field):
  with pytest.raises(ConfigError, match=rf"README\.md has .*{field}"):
    texts(with_card(tmp_path, configs), "hf")


def test_a_cards_name_that_is_too_long_is_one_sentence(tmp_path):
  """Which Python 3.11 finds in matching, and later ones in finding nothing."""
  with pytest.raises(ConfigError, match="README.md (has 'xxx.* in data_files|names no files of)"):
    texts(with_card(tmp_path, f"[{{config_name: x, data_files: {'x' * 5000}}}]"), "hf")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_and_arrays_are_read_in_any_unicode(tmp_path, encoding):
  lines, array = tmp_path / "x.jsonl", tmp_path / "x.json"
  records = [{"text": "a\u2028b\u0085c", "prompt": "p\u2028q", "answer": "1"}] * 2
  dump = [json.dumps(record, ensure_ascii=False) for record in records]
  lines.write_text("\n".join(dump), encoding=encoding)
  array.write_text("[\n" + ",\n".join(dump) + "\n]", encoding=encoding)
  for path in (lines, array):
    if path is array or encoding != "utf-16":
      assert texts(path) == ["a\u2028b\u0085c"] * 2
    assert [p.prompt for p in load_file_benchmark(path).problems] == ["p\u2028q"] * 2


@pytest.mark.parametrize(
  ("name", "raw", "told"),
  [
    ("x.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0), "is packed with gzip, .* unpack it"),
    ("x.jsonl", gzip.compress(b'{"text": "a"}', mtime=0), "is packed with gzip, .* unpack it"),
    ("x.zip", b"PK\x03\x04...", "is packed with zip"),
    ("x.csv", b"text,answer\na,1\n", "is CSV, which is not read; write its rows as lines of JSON"),
    ("x.json", b"PAR1...", "is a Parquet table; give it the ending .parquet"),
  ],
)
def test_files_of_other_formats_are_told_as_what_they_are(tmp_path, name, raw, told):
  path = tmp_path / name
  path.write_bytes(raw)
  for read in (texts, load_file_benchmark):
    with pytest.raises(ConfigError, match=f"{name} {told}"):
      read(path)


def test_half_a_character_is_replaced(tmp_path):
  assert whole_text("a \ud83d b \ud83d\ude00 é") == "a \ufffd b 😀 é"
  write(tmp_path / "x.jsonl", "a \ud83d b")
  assert texts(tmp_path / "x.jsonl") == ["a \ufffd b"]


def test_what_cannot_be_learnt_is_left_out_and_told(tmp_path, capsys):
  path = tmp_path / "x.jsonl"
  write(path, "good", "x" * 50, "")
  with open(path, "ab") as file:
    file.write(b'{"text": \n{"txet": "a"}\n{"text": "\xff"}\n{"text": "last"}\n')
  config = DataConfig(
    source="jsonl", path=str(path), tokenizer="byte", batch=1, length=20, epochs=1
  )
  assert len(read_samples(config)) == 2
  told = capsys.readouterr().err
  for line, why in ((2, "51 tokens"), (3, "no text"), (4, "JSON"), (5, "'text'"), (6, "JSON")):
    assert any(f"x.jsonl, line {line}, " in t and why in t for t in told.splitlines()), told
  cut = sum(int((batch.segments_BT > 0).sum()) for batch in open_batches(config))
  assert cut == 51 + 5 + 5  # running text is cut, so that only what is damaged goes
  write(path, "x" * 50)
  with pytest.raises(ConfigError, match="line 1, has 51 tokens, more than data.length, 20"):
    read_samples(config)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_lists_of_messages_are_told_how_they_are_read(tmp_path, ending, field):
  path = tmp_path / f"x.{ending}"
  talk = {field: [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
  if ending == "jsonl":
    path.write_text(json.dumps(talk))
  else:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([talk]), path)
  with pytest.raises(ConfigError, match=f"'text' .*set data.text_field to {field} to learn"):
    texts(path)
  config = DataConfig(source="jsonl", path=str(path), text_field=field, prompt_field="prompt")
  corpus = open_source(config)
  assert corpus[0].messages == tuple(talk[field])
