"""Which stage starts from which, and learns from whose samples (2501.12948, figure 2, table 5).

  base --- r1_zero ~~> cold_start --- rl1 ~~> sft2 --- r1 ~~> distilled
    \\_________________/ \\_____________________/               /
  student_base ______________________________________________/__ student_rl

A line hands on weights, a wave samples. The cold start and the second SFT both begin at the base,
as the paper's do.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Node:
  """A stage: the model it trains, where its weights come from, and whose samples it learns from."""

  stage: str
  model: str  # teacher | student
  start: str | None = None  # None: random weights
  source: str | None = None


GRAPH = (
  Node("base", "teacher"),
  Node("r1_zero", "teacher", start="base"),
  Node("cold_start", "teacher", start="base", source="r1_zero"),
  Node("rl1", "teacher", start="cold_start"),
  Node("sft2", "teacher", start="base", source="rl1"),
  Node("r1", "teacher", start="sft2"),
  Node("student_base", "student"),
  Node("distilled", "student", start="student_base", source="r1"),
  Node("student_rl", "student", start="student_base"),
)
