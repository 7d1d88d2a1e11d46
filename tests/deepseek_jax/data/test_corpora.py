"""Corpora read from files, the standard library's own, and what bad ones are told."""

import json

import pytest

from deepseek_jax.config import ConfigError, from_dict
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Document
from deepseek_jax.data.pipeline import open_batches, open_source, read_samples
from deepseek_jax.data.stdlib import StdlibSource
from deepseek_jax.data.tokenizer import load_tokenizer

RECORDS = [{"question": f"q {i}", "reply": f"r {i} é"} for i in range(7)]
FIELDS = {"text_field": "reply", "prompt_field": "question"}
DOCUMENTS = [Document(text=r["reply"], prompt=r["question"]) for r in RECORDS]


def documents(source):
  return [source[i] for i in range(len(source))]


def write_jsonl(path, records=tuple(RECORDS)):
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = (json.dumps(record, ensure_ascii=False) + "\n\n" for record in records)
  path.write_text("".join(lines), encoding="utf-8")
  return path


def write_parquet(path, records=tuple(RECORDS)):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet

  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=3)
  return path


def write_arrow(path, records=tuple(RECORDS), as_file=False):
  pa = pytest.importorskip("pyarrow")
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.Table.from_pylist(list(records))
  writer = pa.ipc.new_file if as_file else pa.ipc.new_stream
  with pa.OSFile(str(path), "wb") as sink, writer(sink, table.schema) as out:
    out.write_table(table, max_chunksize=3)
  return path


def test_text_files_are_documents_in_a_fixed_order(tmp_path):
  for name, text in (("b.txt", "two"), ("a/c.md", "one"), (".hidden.txt", "no"), ("d.py", "no")):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  source = open_source(DataConfig(source="text", path=str(tmp_path)))
  assert [d.text for d in documents(source)] == ["one", "two"]
  one = open_source(DataConfig(source="text", path=str(tmp_path / "d.py")))
  assert [d.text for d in documents(one)] == ["no"]


def test_json_lines_are_documents(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl")
  assert documents(open_source(DataConfig(source="jsonl", path=str(path), **FIELDS))) == DOCUMENTS


def test_parquet_rows_are_documents_across_files_and_row_groups(tmp_path):
  write_parquet(tmp_path / "a.parquet")
  write_parquet(tmp_path / "b.parquet", RECORDS[:2])
  source = open_source(DataConfig(source="parquet", path=str(tmp_path), **FIELDS))
  assert documents(source) == DOCUMENTS + DOCUMENTS[:2]


@pytest.mark.parametrize("as_file", [False, True])
def test_datasets_saved_to_disk_are_read_by_split(tmp_path, as_file):
  write_arrow(tmp_path / "train" / "data-00000-of-00001.arrow", as_file=as_file)
  write_arrow(tmp_path / "test" / "data-00000-of-00001.arrow", RECORDS[:1], as_file)
  config = DataConfig(source="hf", path=str(tmp_path), **FIELDS)
  assert documents(open_source(config)) == DOCUMENTS
  test = DataConfig(source="hf", path=str(tmp_path), split="test", **FIELDS)
  assert documents(open_source(test)) == DOCUMENTS[:1]
  with pytest.raises(ConfigError, match="validation"):
    open_source(DataConfig(source="hf", path=str(tmp_path), split="validation", **FIELDS))


@pytest.mark.parametrize("write, ending", [(write_parquet, "parquet"), (write_jsonl, "jsonl")])
def test_downloaded_dataset_repositories_are_read(tmp_path, write, ending):
  write(tmp_path / "data" / f"train-00000-of-00001.{ending}")
  write(tmp_path / "data" / f"test-00000-of-00001.{ending}", RECORDS[:1])
  (tmp_path / "dataset_infos.json").write_text("{}")
  config = DataConfig(source="hf", path=str(tmp_path), **FIELDS)
  assert documents(open_source(config)) == DOCUMENTS


def test_samples_of_a_file_learn_the_answer_only(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl")
  tokenizer = load_tokenizer("byte")
  config = DataConfig(source="jsonl", path=str(path), tokenizer="byte", **FIELDS)
  samples = read_samples(config)
  for sample, document in zip(samples, DOCUMENTS, strict=True):
    answer = sample.tokens[sample.prompt_length :]
    assert tokenizer.decode(sample.tokens[: sample.prompt_length]) == document.prompt
    assert tokenizer.decode(answer) == document.text and answer[-1] == tokenizer.eos_id
  with pytest.raises(ConfigError, match="no end"):
    read_samples(DataConfig())


def test_so_many_worked_solutions_are_a_corpus_of_fine_tuning():
  some, more = (read_samples(DataConfig(records=n)) for n in (20, 30))
  assert len(some) == 20 and len(more) == 30
  assert [s.tokens for s in more[:20]] == [s.tokens for s in some]
  with pytest.raises(ConfigError, match="data.records is 5; it says how many problems are drawn"):
    DataConfig(source="text", path="x", records=5)


def test_epochs_end_and_are_shuffled_anew(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", [{"text": chr(97 + i)} for i in range(20)])
  config = DataConfig(source="jsonl", path=str(path), tokenizer="byte", batch=2, length=8, epochs=2)
  batches = list(open_batches(config))
  assert sum(int((b.segments_BT > 0).sum()) for b in batches) == 2 * 20 * 2  # a letter and eos
  tokenizer = load_tokenizer("byte")
  text = "".join(tokenizer.decode(b.tokens_BT.ravel()) for b in batches)
  first, second = text[:20], text[20:]
  assert sorted(first) == sorted(second) == [chr(97 + i) for i in range(20)]
  assert first != second != "".join(sorted(second))


def test_the_standard_library_is_source_and_prose_with_modules_held_out():
  train, held_out = StdlibSource("train"), StdlibSource("heldout")
  assert len(train) > 400 and 10 < len(held_out) < len(train) / 5
  assert not set(train._files) & set(held_out._files)
  place = next(i for i, file in enumerate(train._files) if file.name == "textwrap.py")
  assert "class TextWrapper:" in train[2 * place].text
  prose = train[2 * place + 1].text
  assert "Object for wrapping" in prose and "class TextWrapper:" not in prose


@pytest.mark.parametrize(
  "fields, named",
  [
    ({"source": "web"}, "source"),
    ({"packing": "none"}, "packing"),
    ({"source": "text"}, "path"),
    ({"path": "somewhere"}, "path"),
    ({"batch": 0}, "batch"),
    ({"length": -1}, "length"),
    ({"epochs": -1}, "epochs"),
    ({"fim_rate": 1.5}, "fim_rate"),
    ({"fim_rate": 0.1, "loss": "answer"}, "fim_rate"),
    ({"loss": "some"}, "loss"),
    ({"split": "tset"}, "split"),
    ({"bacth": 3}, "bacth"),
    ({"batch": "3"}, "batch"),
  ],
)
def test_bad_fields_are_named(fields, named):
  with pytest.raises(ConfigError, match=named):
    from_dict(DataConfig, fields, "data")


def test_empty_and_broken_corpora_are_named(tmp_path):
  def opened(source, name, **fields):
    config = DataConfig(source=source, path=str(tmp_path / name), tokenizer="byte", **fields)
    return next(open_batches(config))

  (tmp_path / "empty").mkdir()
  (tmp_path / "none.jsonl").write_text("\n\n")
  (tmp_path / "bad.jsonl").write_text('{"text": "a"\n')
  (tmp_path / "list.jsonl").write_text("[1]\n")
  (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
  (tmp_path / "blank.txt").write_text("")
  write_jsonl(tmp_path / "x.jsonl")
  for source, name, named in (
    ("text", "absent", "does not exist"),
    ("text", "empty", "holds no .txt"),
    ("hf", "empty", "not a dataset directory"),
    ("jsonl", "none.jsonl", "empty"),
    ("jsonl", "bad.jsonl", "line 1, is not valid JSON"),
    ("jsonl", "list.jsonl", "not a record"),
    ("jsonl", "x.jsonl", "field 'text'"),
    ("text", "latin.txt", "not UTF-8"),
    ("text", "blank.txt", "no text"),
  ):
    with pytest.raises(ConfigError, match=named):
      opened(source, name)


def test_broken_tables_are_named_and_so_is_the_extra(tmp_path, monkeypatch):
  path = write_parquet(tmp_path / "a.parquet")
  with pytest.raises(ConfigError, match="no column 'text'"):
    open_source(DataConfig(source="parquet", path=str(path)))
  (tmp_path / "b.parquet").write_bytes(b"nonsense")
  with pytest.raises(ConfigError, match="b.parquet cannot be read"):
    open_source(DataConfig(source="parquet", path=str(tmp_path / "b.parquet")))
  monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
  with pytest.raises(ConfigError, match="pip install"):
    open_source(DataConfig(source="parquet", path=str(path), **FIELDS))
