"""Whether a verifier accepts the answers that its own task calls right, and no others.

`Problem.answer` is the answer alone, and how a verifier finds it in a completion is its own affair.
So every form in FORMS is tried with all problems, and the one that most of them accept is taken to
be the verifier's. As a control each problem is shown the answer of another one in that form.
"""

import dataclasses
from collections.abc import Sequence

from deepseek_jax.tasks.scoring import score_each
from deepseek_jax.tasks.task import Problem, Task

FORMS = {
  "<think> </think> <answer> ANSWER </answer>": "<think> </think> <answer> {} </answer>",
  "\\boxed{ANSWER}": "\\boxed{{{}}}",
  "```python ANSWER ```": "```python\n{}\n```",
  "the answer alone": "{}",
}


@dataclasses.dataclass(frozen=True)
class Gold:
  """What a verifier made of the answers its task gives; problems count once by their key."""

  problems: int  # that were looked at
  answered: int = 0  # those with an answer
  accepted: int = 0  # of them, whose own answer is right
  form: str = ""  # in which it was said: a name in FORMS
  controls: int = 0  # problems that were shown another's answer, a different one
  mistaken: int = 0  # of them, for which it was right
  refused: tuple[str, ...] = ()  # answers that are not, with their problem's key; a few


def check_gold(task: Task, problems: Sequence[Problem], shown: int = 3) -> Gold:
  """Judges the answers of the problems that have one; up to `shown` refused ones are named."""
  distinct = list({problem.key: problem for problem in problems}.values())
  answered = [problem for problem in distinct if problem.answer is not None]
  if not answered:
    return Gold(len(distinct))
  right = {form: _right(task, answered, [p.answer or "" for p in answered], form) for form in FORMS}
  form = max(FORMS, key=lambda name: sum(right[name]))  # of equal ones the first
  pairs = [(p, other) for p, other in zip(answered, _others(answered)) if other is not None]
  mistaken = _right(task, [p for p, _ in pairs], [other for _, other in pairs], form)
  refused = [p for p, accepted in zip(answered, right[form], strict=True) if not accepted]
  return Gold(
    problems=len(distinct),
    answered=len(answered),
    accepted=sum(right[form]),
    form=form,
    controls=len(pairs),
    mistaken=sum(mistaken),
    refused=tuple(f"{p.answer!r:.40} of {p.key!r:.60}" for p in refused[:shown]),
  )


def _right(
  task: Task, problems: Sequence[Problem], answers: Sequence[str], form: str
) -> list[bool]:
  """Whether each answer, said in that form, is right."""
  texts = [FORMS[form].format(answer) for answer in answers]
  return [score.correct == 1 for score in score_each(task, problems, texts)] if texts else []


def _others(problems: Sequence[Problem]) -> list[str | None]:
  """For each problem the answer of the next one of its task whose answer differs, if there is."""
  found = []
  for i, problem in enumerate(problems):
    rest = [*problems[i + 1 :], *problems[:i]]
    differing = (p.answer for p in rest if p.task == problem.task and p.answer != problem.answer)
    found.append(next(differing, None))
  return found
