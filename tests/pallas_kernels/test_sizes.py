"""Files are short enough to be read, references above all."""

from pathlib import Path

import pallas_kernels

FILES = sorted(Path(pallas_kernels.__file__).parent.rglob("*.py"))


def _longer(files, most):
  """The files of more than `most` lines, by name."""
  lengths = {str(file): len(file.read_text().splitlines()) for file in files}
  return {name: length for name, length in lengths.items() if length > most}


def test_no_file_is_above_600_lines():
  assert FILES and _longer(FILES, 600) == {}


def test_no_reference_is_above_60_lines():
  references = [file for file in FILES if file.name == "ref.py"]
  assert len(references) >= 5 and _longer(references, 60) == {}


def test_a_line_too_many_is_seen(tmp_path):
  file = tmp_path / "ref.py"
  file.write_text("x\n" * 60)
  assert _longer([file], 60) == {}
  file.write_text("x\n" * 61)
  assert _longer([file], 60) == {str(file): 61}
