"""Problems that do not fit: others take their places, and one line tells of each."""

from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.rl.completions import fitting_problems
from deepseek_jax.tasks.task import Problem

LONG = "Write a program.\n\nIt reads numbers,\tand\n" + 400 * "so on, " + "\n```python\n1\n```\n"


class Wordy:
  """Every second prompt is long, and its key is the prompt, as a user's task may have it."""

  name = "wordy"

  def sample(self, split, index, seed, language=None):
    prompt = LONG + str(index) if index % 2 else f"{index} ?"
    return Problem(prompt=prompt, task=self.name, key=prompt)


def test_what_is_left_out_is_named_in_one_short_line(capsys):
  kept, left_out = fitting_problems(Wordy(), load_tokenizer("byte"), 0, 4, 0, 20, "plain")
  assert [p.prompt for p in kept] == ["0 ?", "2 ?", "4 ?", "6 ?"] and left_out == 3
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == left_out and max(map(len, lines)) < 250
  assert lines[0].startswith("left out: problem Write a program. It reads numbers, and so on")
  assert "… of wordy has a prompt of " in lines[0]
