"""A user's own task, named on the command line: begin the answer with a positive number."""

from deepseek_jax.tasks.task import Problem, Score, stream


class Positive:
  """Something that a model which has learnt next to nothing does now and then."""

  name = "positive"

  def sample(self, split, index, seed, language=None):
    """Problem `index`."""
    n = stream(seed, self.name, split, index).randint(1, 9)
    return Problem(prompt=f"sum {n} 1 ?", task=self.name, key=str(n), language="en")

  def score(self, problem, text):
    """Right if the first word is a number above zero; every form will do."""
    first = (text.split() or [""])[0]
    return Score(correct=float(first.isdigit() and first != "0"), format=1.0, language=1.0)


class Insisting(Positive):
  """The same, asked again and again."""

  def reply(self, problem, exchange):
    """Whatever was said."""
    return "check ?"
