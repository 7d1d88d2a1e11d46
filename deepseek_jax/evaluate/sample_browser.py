"""What a model said while it was reinforced, as a page shows it: samples.jsonl, some of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.evaluate import page

_EACH = 4  # samples of the first and of the last iteration
_PAIRS = 4  # prompts that were asked more than once
_PROMPT, _HEAD, _TAIL = 1000, 1500, 700  # letters shown; of a long text its beginning and its end

Samples = Sequence[Mapping[str, Any]]


def sample_sections(samples: Samples, title: str = "Samples") -> str:
  """The same prompts before and after, then the first iteration's samples, and the last one's.

  Each sample has its prompt, its text, the parts of its reward, what was learnt from and its
  advantage. Nothing is chosen by how it came out.
  """
  if not samples:
    return ""
  first, last = samples[0]["step"], samples[-1]["step"]
  sections = [f"<h2>{page.text(title)}</h2>", f"<p>{_NOTE}</p>"]
  for prompt, before, after in asked_again(samples):
    pair = _sample(before, prompt=False) + _sample(after, prompt=False)
    sections.append(f"<h3>Before and after</h3><pre>{page.text(clipped(prompt, _PROMPT))}</pre>")
    sections.append(pair)
  for step in dict.fromkeys((first, last)):
    chosen = [sample for sample in samples if sample["step"] == step][:_EACH]
    sections.append(f"<h3>Iteration {page.text(step)}</h3>")
    sections.extend(_sample(sample) for sample in chosen)
  return "\n".join(sections)


def asked_again(samples: Samples) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
  """Prompts of several iterations with their first and their last sample, the furthest apart first.

  At most four.
  """
  ends: dict[str, list[Mapping[str, Any]]] = {}
  for sample in samples:
    known = ends.setdefault(sample["prompt"], [sample, sample])
    if sample["step"] > known[1]["step"]:
      known[1] = sample
  pairs = [(p, before, after) for p, (before, after) in ends.items() if before is not after]
  return sorted(pairs, key=lambda pair: pair[1]["step"] - pair[2]["step"])[:_PAIRS]


def clipped(text: str, head: int = _HEAD, tail: int = _TAIL) -> str:
  """A text, of which the middle is left out, and told, where it is long."""
  left = len(text) - head - tail
  if left <= 0:
    return text
  return f"{text[:head]}\n[… {left:,} letters left out …]\n{text[-tail:]}"


def _sample(sample: Mapping[str, Any], prompt: bool = True) -> str:
  """One sample under a line that says what it earned."""
  parts = sample.get("parts", {})
  told = [f"iteration {sample['step']}", f"reward {page.number(sample.get('reward'))}"]
  told += [f"advantage {page.number(sample.get('advantage'))}"]
  told += [f"{sample.get('tokens')} tokens"] + ["cut off"] * bool(sample.get("truncated"))
  told += ["not learnt from"] * (not sample.get("kept", True))
  rows = [{"part": name, "value": value} for name, value in parts.items()]
  rows += [{"part": name, "value": sample.get(name)} for name in ("reward", "advantage")]
  asked = f"<pre>{page.text(clipped(sample['prompt'], _PROMPT))}</pre>" if prompt else ""
  said = page.text(clipped(sample["text"])) or "<i>nothing</i>"
  return (
    f"<details open><summary>{page.text(', '.join(told))}</summary>"
    f"{asked}<pre class=said>{said}</pre>{page.table(rows)}</details>"
  )


_NOTE = (
  "The first sample of the iteration's first problems. Parts are as they were judged, without "
  "their weights; the reward is what was learnt from. All that is kept is in samples.jsonl."
)
