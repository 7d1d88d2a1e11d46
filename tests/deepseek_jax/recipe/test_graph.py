"""The graph of a config: which stages there are, in which order, and what cannot be."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.recipe.graph import GRAPH, STAGES, Node, graph_of
from deepseek_jax.recipe.resolve import r1_config
from tests.deepseek_jax.recipe.tiny import values


def graph(**changes):
  return graph_of(r1_config(values(**changes)))


def without(*stages):
  return dict.fromkeys(stages)


def section(stage, **changes):
  return {stage: values()[stage] | changes}


def test_a_config_of_every_stage_is_the_papers_graph():
  assert graph() == GRAPH


@given(st.sets(st.sampled_from(STAGES)))
def test_what_is_left_is_run_in_order_or_what_lacks_is_named(left_out):
  kept = [node for node in GRAPH if node.stage not in left_out]
  needed = {name for node in kept for name in (node.start, node.source) if name}
  try:
    found = graph(**without(*left_out))
  except ConfigError as error:
    missing = needed - {node.stage for node in kept}
    assert not kept or any(f"is {name}, which is left out" in str(error) for name in missing)
  else:
    assert found == tuple(kept) and needed <= {node.stage for node in found}


def test_starts_and_sources_can_be_others():
  found = graph(
    **without("r1_zero", "rl1"),
    **section("cold_start", source="base"),
    **section("sft2", start="cold_start", source="cold_start"),
    **section("student_rl", start="distilled"),
  )
  assert Node("cold_start", "teacher", "base", "base") in found
  assert Node("sft2", "teacher", "cold_start", "cold_start") in found
  assert Node("student_rl", "student", "distilled") in found


def test_a_stage_runs_behind_what_it_waits_for_and_is_of_that_model():
  found = graph(**section("cold_start", source="student_rl"), **section("distilled", start="base"))
  order = [node.stage for node in found]
  assert order.index("cold_start") > order.index("student_rl") > order.index("student_base")
  for node, later in itertools.combinations(found, 2):
    assert later.stage not in (node.start, node.source)
  assert next(node for node in found if node.stage == "distilled").model == "teacher"


def test_stages_by_name_are_the_others_left_out():
  assert [n.stage for n in graph(stages="base, r1_zero")] == ["base", "r1_zero"]
  with pytest.raises(ConfigError, match="config.stages names 'rl3'"):
    graph(stages="base,rl3")
  with pytest.raises(ConfigError, match="config.stages names rl1, which this config has no"):
    graph(stages="base,rl1", rl1=None)


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (without(*STAGES), "the config has no stage"),
    (without("base"), "config.r1_zero.start is base, which is left out; give config.base"),
    (without("r1_zero"), "config.cold_start.source is r1_zero, which is left out"),
    (without("student_base"), "config.distilled.start is student_base, which is left out"),
    (section("rl1", start="rl9"), "config.rl1.start is 'rl9', which is no stage"),
    (section("cold_start", source="nobody"), "config.cold_start.source is 'nobody'"),
    (section("cold_start", source="none"), "config.cold_start has neither a source nor a file"),
    (section("rl1", start="rl1"), "wait for one another"),
    (section("cold_start", source="r1"), "the stages cold_start, rl1, sft2, r1.*wait for one"),
  ],
)
def test_a_graph_that_cannot_be_is_one_sentence(changes, told):
  with pytest.raises(ConfigError, match=told) as caught:
    graph(**changes)
  assert "\n" not in str(caught.value)
