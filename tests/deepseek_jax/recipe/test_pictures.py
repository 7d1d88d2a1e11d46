"""A stage's curves: drawn once, and again where they would be others."""

import xml.etree.ElementTree as ET

import pytest

from deepseek_jax.evaluate import charts
from deepseek_jax.recipe.pictures import stage_curves

RECORDS = [{"stage": "base", "step": i, "loss": 1 / (i + 1)} for i in range(30)]


@pytest.fixture
def drawings(monkeypatch):
  """Counts what is drawn."""
  drawn, curves = [], charts.curves
  monkeypatch.setattr(charts, "curves", lambda records: drawn.append(1) or curves(records))
  return drawn


def test_a_picture_is_drawn_once_and_stays_the_same(tmp_path, drawings):
  path = tmp_path / "stages" / "base.svg"
  first = stage_curves(path, RECORDS)
  assert stage_curves(path, RECORDS) == first == charts.curves(RECORDS)
  assert len(drawings) == 2  # the second is this test's own
  assert ET.fromstring(path.read_text()).tag.endswith("svg")


def test_other_records_or_another_version_are_drawn_anew(tmp_path, drawings, monkeypatch):
  path = tmp_path / "base.svg"
  first = stage_curves(path, RECORDS)
  assert stage_curves(path, RECORDS[:-1]) != first
  assert stage_curves(path, RECORDS) == first and len(drawings) == 3
  monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
  assert stage_curves(path, RECORDS) == first and len(drawings) == 4


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"<svg"])
def test_a_damaged_picture_is_drawn_anew(tmp_path, damage):
  path = tmp_path / "base.svg"
  path.write_bytes(damage)
  assert stage_curves(path, RECORDS) == charts.curves(RECORDS)


def test_what_has_no_curves_leaves_no_file(tmp_path):
  assert stage_curves(tmp_path / "base.svg", RECORDS[:1]) is None
  assert not list(tmp_path.iterdir())
