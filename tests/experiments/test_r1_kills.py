"""A graph killed once in each part of its work; ten times: python -m tests.killed_run."""

import pytest

from tests import killed_run
from tests.dying import PARTS


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
  return killed_run.undisturbed(tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_killed_graph_comes_to_the_same_end(tmp_path, wanted, part):
  found, happened = killed_run.killed(tmp_path / "run", part, kills=1)
  assert happened >= 1 and found == wanted
