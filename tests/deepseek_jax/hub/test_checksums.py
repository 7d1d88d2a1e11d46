"""SHA256SUMS: written with every export, and no flipped byte gets past it."""

import shutil
import subprocess

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub import checksums
from deepseek_jax.hub import safetensors as hub

SUMS = "SHA256SUMS"


@pytest.fixture(scope="module")
def exported(fp8_folder, tmp_path_factory):
  """An export in shards with a tokenizer, not to be changed."""
  config, weights, _ = hub.load_pretrained(fp8_folder)
  out = tmp_path_factory.mktemp("exported") / "out"
  hub.save_pretrained(out, config, weights, load_tokenizer("byte"), "fp8", shard_bytes=2e5)
  return out


def test_every_file_is_listed_as_the_tool_lists_it(exported):
  lines = (exported / SUMS).read_text().splitlines()
  names = [line[66:] for line in lines]
  assert names == sorted(p.name for p in exported.iterdir() if p.name != SUMS)
  assert "tokenizer.json" in names and sum(n.endswith(".safetensors") for n in names) > 1
  if shutil.which("sha256sum"):
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=exported)
    assert done.returncode == 0


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_byte_anywhere_is_refused(seed, exported, tmp_path):
  rng = np.random.default_rng(seed)
  folder = tmp_path / "in"
  shutil.copytree(exported, folder)
  paths = sorted(path for path in folder.iterdir() if path.name != SUMS)
  path = paths[seed % len(paths)]
  data = bytearray(path.read_bytes())
  data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
  path.write_bytes(data)
  with pytest.raises(ConfigError, match=path.name):
    hub.load_pretrained(folder)


def test_every_flipped_byte_of_the_list_is_refused(exported, tmp_path):
  folder = tmp_path / "in"
  shutil.copytree(exported, folder)
  whole = (folder / SUMS).read_bytes()
  rng = np.random.default_rng(0)
  for at in range(len(whole)):
    data = bytearray(whole)
    data[at] ^= int(rng.integers(1, 256))
    (folder / SUMS).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
      hub.load_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 1, (at, caught.value)


def test_files_that_are_not_listed_are_refused(exported, tmp_path):
  folder = tmp_path / "in"
  shutil.copytree(exported, folder)
  (folder / "chat_template.jinja").write_text("{{ evil }}")
  with pytest.raises(ConfigError, match="chat_template.jinja is not listed"):
    hub.load_pretrained(folder)
  (folder / "chat_template.jinja").unlink()
  (folder / "README.md").write_text("which is not read")
  hub.load_pretrained(folder)
  lines = (folder / SUMS).read_text().splitlines(keepends=True)
  for line in lines:
    (folder / SUMS).write_text("".join(other for other in lines if other != line))
    with pytest.raises(ConfigError, match="not listed"):
      hub.load_pretrained(folder)
  for text in ("", lines[0] * 2, "".join(lines)[:-1], "\0", "../" + lines[0]):
    (folder / SUMS).write_text(text)
    with pytest.raises(ConfigError, match=SUMS):
      hub.load_pretrained(folder)


def test_without_a_list_one_is_told_once(exported, tmp_path, capsys):
  folder = tmp_path / "in"
  shutil.copytree(exported, folder)
  hub.load_pretrained(folder)
  assert capsys.readouterr().err == ""
  (folder / SUMS).unlink()
  for _ in range(2):
    hub.load_pretrained(folder)
  err = capsys.readouterr().err
  assert err == f"{folder} has no {SUMS}; its data was not verified.\n"
  assert checksums.logger.name == "deepseek_jax.hub"
