"""Distillation across vocabularies: a student of bytes gains from a teacher of words."""

import json

import pytest

from tests import killing


def gains(workdir):
  """pass@1 of the distilled student over its own start, by decoding: the interval's low end."""
  arguments = ["--config=configs/r1_two_tokenizers.py", f"--workdir={workdir}"]
  killing.run("experiments.r1", arguments, None)
  figures = json.loads((workdir / "results.json").read_text())["figures"]
  return {
    f["benchmark"].split()[1]: f["ci95"][0]
    for f in figures
    if f["stage"] == "distilled" and f["metric"] == "pass@1 over student_base"
  }


@pytest.mark.slow
def test_a_student_of_other_tokens_beats_its_own_start(tmp_path):
  found = gains(tmp_path / "run")
  assert set(found) == {"greedy", "T=0.6", "T=1"} and min(found.values()) > 0
