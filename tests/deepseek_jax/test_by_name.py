"""Models and datasets by their Hub's names, from a cache as huggingface_hub lays it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import deepseek_jax as ds
from deepseek_jax import by_name
from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.pipeline import open_source
from deepseek_jax.evaluate.file_benchmark import load_file_benchmark
from deepseek_jax.rl.grpo_job import grpo_job
from deepseek_jax.train.pretrain_job import pretrain_job
from tests.talker import write_talker

pytest.importorskip("tokenizers", reason="needs the extra hf")
pytest.importorskip("huggingface_hub", reason="needs the extra hf")

REVISION = "0123456789abcdef0123456789abcdef01234567"


def lay(cache: Path, kind: str, repo: str, files: Path, revision: str = REVISION) -> Path:
  """Blobs, links to them in a snapshot, and the branch main that names it."""
  root = cache / f"{kind}s--{repo.replace('/', '--')}"
  snapshot = root / "snapshots" / revision
  snapshot.mkdir(parents=True)
  (root / "blobs").mkdir(exist_ok=True)
  (root / "refs").mkdir(exist_ok=True)
  (root / "refs" / "main").write_text(revision)
  for i, file in enumerate(sorted(files.iterdir())):
    blob = root / "blobs" / f"{i:064}"
    shutil.copyfile(file, blob)
    (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
  return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache without a network."""
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  monkeypatch.chdir(tmp_path)
  by_name._fetch.cache_clear()
  yield tmp_path / "hub"
  by_name._fetch.cache_clear()


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
  folder = tmp_path_factory.mktemp("files") / "talker"
  write_talker(folder, 2, eos_token_id=[1, 2])
  return folder


@pytest.mark.parametrize("name", ["org/talker", "org/talker@main", f"org/talker@{REVISION}"])
def test_a_model_is_loaded_and_trained_by_its_name(name, talker, cache):
  lay(cache, "model", "org/talker", talker)
  assert ds.load(name).generate("hello", max_new=4) == ""
  job = grpo_job({"init": name, "train": {"steps": 1}})
  assert job.init == job.tokenizer == f"org/talker@{REVISION}"  # what main was when it began
  assert job.rl.rollout.template == "turns" and job.model == ds.load(talker).config


def test_what_exists_here_is_meant_first(talker, cache):
  shutil.copytree(talker, "org/talker")
  assert by_name.pinned("org/talker") == "org/talker"
  assert by_name.model_path("org/talker") == Path("org/talker")


def test_a_dataset_is_read_by_its_name(cache, tmp_path):
  (tmp_path / "files").mkdir()
  (tmp_path / "files" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
  lay(cache, "dataset", "org/lines", tmp_path / "files")
  data = {"source": "hf", "path": "org/lines", "tokenizer": "byte"}
  job = pretrain_job({"model": {"preset": "v3_mini"}, "data": data, "train": {"steps": 1},
                      "schedule": {"peak": 1e-3}})  # fmt: skip
  assert job.data.path == f"org/lines@{REVISION}"
  source = open_source(DataConfig(source="hf", path=job.data.path))
  assert [source[i].text for i in range(2)] == ["one", "two"]


@pytest.mark.parametrize("name", ["org/absent", "runs/mini", "org/talker@v2"])
def test_what_is_nowhere_is_told_in_one_sentence(name, talker, cache):
  lay(cache, "model", "org/talker", talker)
  with pytest.raises(ConfigError, match="no file or directory here, and the Hugging Face Hub") as e:
    ds.load(name)
  assert "\n" not in str(e.value) and len(str(e.value)) < 600


def test_without_the_package_the_extra_is_named(cache, monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ConfigError, match=r"pip install 'deepseek-jax\[hf\]'"):
    ds.load("org/talker")


def test_pickles_of_the_hub_stay_refused(talker, cache, tmp_path):
  files = tmp_path / "files"
  shutil.copytree(talker, files)
  (files / "model.safetensors").rename(files / "pytorch_model.bin")
  lay(cache, "model", "org/pickled", files)
  with pytest.raises(ConfigError, match="is a pickle, which is never read"):
    ds.load("org/pickled")
  assert json.loads((files / "config.json").read_text())


def test_a_benchmark_is_read_by_its_name(cache, tmp_path):
  parquet = pytest.importorskip("pyarrow.parquet")
  import pyarrow

  files = tmp_path / "files"
  files.mkdir()
  for split, answers in (("train", ["#### 1"]), ("test", ["1 + 1 is 2\n#### 2", "3"])):
    rows = [{"question": "q ?", "answer": answer} for answer in answers]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, files / f"{split}-00000-of-00001.parquet")
  lay(cache, "dataset", "org/sums", files)
  task = load_file_benchmark("org/sums", "exact")
  assert [p.answer for p in task.problems] == ["2", "3"]
  assert task.name == f"sums@{REVISION}/test", "figures of another revision do not compare"
  assert len(load_file_benchmark("org/sums@main", "exact", "train").problems) == 1
  with pytest.raises(ConfigError, match="benchmark .* its splits are test, train: set split to"):
    load_file_benchmark("org/sums", "exact", "dev")
  with pytest.raises(ConfigError, match="org/none is no file or directory here"):
    load_file_benchmark("org/none", "exact")
  with pytest.raises(ConfigError, match="none.jsonl does not exist"):
    load_file_benchmark("org/none.jsonl", "exact")
