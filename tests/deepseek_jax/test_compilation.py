"""The cache of compiled programs: who decides on it, what damages it, and what it never changes."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from deepseek_jax import compilation

ROOT = Path(__file__).parents[2]
# Compiles one program whose last bits depend on how its sums are ordered, and says what it cost.
PROGRAM = """
import jax, jax.numpy as jnp
from deepseek_jax import compilation
compilation.use_cache(); watch = compilation.watch()

@jax.jit
def work(x):
  for i in range(12):
    x = jnp.tanh(x @ x + i) / jnp.sum(x * x)
  return x

out = work(jnp.linspace(-1, 1, 96 * 96).reshape(96, 96))
compiled = watch.names.count("work")
print(out.tobytes().hex()[:4096], compiled, jax.config.jax_compilation_cache_dir)
"""


def environment(home: Path, **others: str) -> dict[str, str]:
  kept = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
  kept |= {"XDG_CACHE_HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  return kept | others


def start(home: Path, **others: str) -> subprocess.Popen[str]:
  command = [sys.executable, "-c", PROGRAM]
  pipe = subprocess.PIPE
  return subprocess.Popen(
    command, cwd=ROOT, env=environment(home, **others), stdout=pipe, stderr=pipe, text=True
  )


def outcome(process: subprocess.Popen[str]) -> tuple[str, int, str]:
  """The result's bits, how often its program was compiled, and the folder in use."""
  out, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  bits, compiled, folder = out.split()
  return bits, int(compiled), folder


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str, Path]:
  """A cache, the result of the process that filled it, and its folder."""
  home = tmp_path_factory.mktemp("home")
  bits, compiled, folder = outcome(start(home))
  assert compiled == 1 and Path(folder).is_relative_to(home)
  return home, bits, Path(folder)


def entries(folder: Path) -> list[Path]:
  return sorted(folder.glob("jit_work-*-cache"))


def test_a_second_process_compiles_nothing_and_gets_the_same_bits(first):
  home, bits, folder = first
  assert len(entries(folder)) == 1
  assert outcome(start(home)) == (bits, 0, str(folder))


def test_two_processes_may_fill_it_at_once(tmp_path, first):
  both = [start(tmp_path), start(tmp_path)]
  results = [outcome(process) for process in both]
  assert [bits for bits, _, _ in results] == [first[1]] * 2
  assert outcome(start(tmp_path))[:2] == (first[1], 0)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_damage_costs_a_compilation_and_nothing_else(tmp_path, first, damage):
  outcome(start(tmp_path))
  for entry in tmp_path.rglob("*-cache"):
    entry.write_bytes(damage(entry.read_bytes()))
  assert outcome(start(tmp_path))[:2] == (first[1], 1)


def test_jax_own_settings_win(tmp_path, first):
  own = tmp_path / "own"
  bits, compiled, folder = outcome(start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own)))
  assert (bits, compiled, folder) == (first[1], 1, str(own))
  off = outcome(start(first[0], JAX_ENABLE_COMPILATION_CACHE="false"))
  assert off == (first[1], 1, "None")


def test_the_folder_stays_within_its_bound(tmp_path):
  bound = 20_000
  _, _, folder = outcome(start(tmp_path, JAX_COMPILATION_CACHE_MAX_SIZE=str(bound)))
  sizes = [path.stat().st_size for path in Path(folder).glob("*-cache")]
  assert sizes and sum(sizes) <= bound


@pytest.fixture
def unset():
  """JAX's settings as a process begins with them, and afterwards as they were."""
  names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
  names += ("jax_persistent_cache_min_compile_time_secs",)
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_unlike_processors_have_folders_of_their_own(tmp_path, unset, monkeypatch):
  mine = compilation.use_cache(tmp_path)
  monkeypatch.setattr(compilation, "processor", lambda: "one with fewer instructions")
  jax.config.update("jax_compilation_cache_dir", None)
  other = compilation.use_cache(tmp_path)
  assert mine is not None and other is not None and mine != other
  assert mine.parent == other.parent == tmp_path


def test_what_is_unused_or_half_written_goes(tmp_path, unset):
  folder = compilation.use_cache(tmp_path)
  assert folder is not None
  half, whole, fresh = (folder / f"{name}-cache" for name in ("half", "whole", "fresh"))
  for path in (half, whole, fresh, folder / "whole-atime"):
    path.write_bytes(b"12345678")
  unused = tmp_path / "jaxlib-0.0.1-m68k"
  unused.mkdir()
  long_ago = time.time() - 61 * 86400
  for path in (half, whole, unused):
    os.utime(path, (long_ago, long_ago))
  compilation.use_cache(tmp_path)
  assert not half.exists() and not unused.exists()
  assert whole.exists() and fresh.exists()  # another process may be writing that one


def test_a_folder_that_cannot_be_written_is_told(tmp_path, unset, capsys):
  file = tmp_path / "file"
  file.write_text("")
  assert compilation.use_cache(file) is None
  assert "compiled programs are not kept" in capsys.readouterr().err
  assert jax.config.jax_compilation_cache_dir is None


def test_a_user_without_a_home_is_told(unset, monkeypatch, capsys):
  def nowhere(_: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr(Path, "expanduser", nowhere)
  assert compilation.use_cache() is None
  assert "compiled programs are not kept" in capsys.readouterr().err


def test_the_watch_counts_and_tells_what_takes_long():
  watch, told = compilation.watch(), io.StringIO()
  assert compilation.watch() is watch

  def slow_to_compile(x):
    for i in range(60):
      x = jnp.sin(x @ x) + jnp.cumsum(x * i, axis=0)
    return x

  before = watch.programs + watch.cached, watch.seconds
  watch.tell(told, patience=0.0)
  jax.jit(slow_to_compile)(jnp.ones((8, 8)))
  watch.hush()
  assert watch.programs + watch.cached > before[0] and watch.seconds > before[1]
  assert "compiling" in told.getvalue() and "slow_to_compile" in told.getvalue()
