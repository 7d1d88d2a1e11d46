"""The page of a plan stands alone, and its picture has every kind of bytes."""

import base64
import dataclasses
import re
import xml.etree.ElementTree as ElementTree

from deepseek_jax.config import ComputeConfig
from deepseek_jax.evaluate.plan_page import memory_bars, write_plan_page
from deepseek_jax.plan.estimate import plan
from deepseek_jax.plan.tables import tables
from deepseek_jax.plan.topology import topology
from deepseek_jax.plan.workload import Workload
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig

WORK = Workload(
  "<b>v3</b>",
  "training",
  preset("v3_mini"),
  MeshConfig(fsdp=8),
  ComputeConfig(dtype="bfloat16", remat="full"),
  rows=16,
  length=128,
)
SVG = "{http://www.w3.org/2000/svg}"


def test_the_page_stands_alone(tmp_path):
  made = plan(WORK, topology("h100-8"))
  write_plan_page(tmp_path / "new" / "plan.html", made, tables(made, 1024))
  text = (tmp_path / "new" / "plan.html").read_text()
  assert "<b>v3</b>" not in text and "&lt;b&gt;v3" in text
  assert not re.search(r"(?:src|href)=\"(?!data:)", text)
  for table in tables(made, 1024):
    assert all(row[0] in text for row in table.rows)
  (picture,) = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)
  assert base64.b64decode(picture).decode() == memory_bars(made)
  assert "prefers-color-scheme: dark" in text and "max-width" in text


def test_bars_are_as_long_as_what_they_show():
  made = plan(WORK, topology("h100-8"))
  root = ElementTree.fromstring(memory_bars(made))
  kinds = {kind: size for kind, size in made.footprint.kinds.items() if size}
  labels = [text.text for text in root.iter(f"{SVG}text")]
  assert set(kinds) <= set(labels)
  widths = [float(bar.get("width", "0")) for bar in root.iter(f"{SVG}rect")]
  assert len(widths) == 2 * len(kinds)


def test_too_much_reaches_beyond_the_line():
  huge = dataclasses.replace(WORK, model=preset("r1_distill_llama_70b"))
  made = plan(huge, topology("v5e-8"))
  assert not made.fits
  root = ElementTree.fromstring(memory_bars(made))
  (line,) = root.iter(f"{SVG}line")
  ends = [float(b.get("x", "0")) + float(b.get("width", "0")) for b in root.iter(f"{SVG}rect")]
  assert max(ends) > float(line.get("x1", "0")) > 125
  assert max(ends) < 420
