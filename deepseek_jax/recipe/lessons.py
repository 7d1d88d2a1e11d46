"""What a tuning stage learns: another stage's filtered samples, and written answers beside them.

  W/samples/STAGE.jsonl   what was sampled and kept, a prompt and a text a line
  W/samples/STAGE.json    how much was sampled and why the rest fell; written last

Samples are kept as text, so that a resumed run does not draw them again and a model with other
tokens can learn them.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.by_name import dataset_path
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import TURNS
from deepseek_jax.data.document import Document, Sample, make_sample
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.records import read_records
from deepseek_jax.data.sources import fingerprint
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.data.written import WrittenConfig, read_written, some_of, written_files
from deepseek_jax.evaluate.results import write_text
from deepseek_jax.recipe.config import TuneStage
from deepseek_jax.recipe.digest import records_digest
from deepseek_jax.rl.rejection import Selection


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What was sampled for a stage."""

  records: list[dict[str, str]]  # prompt and text
  counts: Mapping[str, int]  # see `rejection.Selection`
  tokens: int
  digest: str


@dataclasses.dataclass(frozen=True)
class Lessons:
  """Samples to learn, how many are from where, and what they were read from, as hashes."""

  samples: list[Sample]
  counts: dict[str, int]
  hashes: dict[str, str]


def kept_or_drawn(folder: Path, stage: str, form: str, draw: Callable[[], Selection]) -> Drawn:
  """The samples in the folder, or those of `draw`, which are then put there.

  ConfigError if what lies there is not what was drawn.
  """
  texts, note = folder / f"{stage}.jsonl", folder / f"{stage}.json"
  if not note.is_file():
    selection = draw()
    records = [{"prompt": c.problem.prompt, "text": behind(c.text, form)} for c in selection.kept]
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_text(texts, "".join(lines))
    told = {"counts": selection.counts, "tokens": selection.tokens}
    write_text(note, json.dumps({**told, "sha256": records_digest(records)}) + "\n")
  try:
    fields = json.loads(note.read_text(encoding="utf-8"))
    records = [record for _, record in read_records(texts)]
    drawn = Drawn(records, fields["counts"], fields["tokens"], fields["sha256"])
  except (OSError, ValueError, KeyError) as error:
    raise ConfigError(f"{note} cannot be read ({error}); delete it to sample anew.") from error
  require(
    records_digest(records) == drawn.digest,
    f"{texts} is not what was sampled any more; delete {note} to sample anew.",
  )
  return drawn


def behind(text: str, form: str) -> str:
  """An answer as it stands behind a prompt in a form of `asking.ask`.

  In turns the template keeps the two apart. Elsewhere a space does, also for tokenizers that read
  characters.
  """
  if form == TURNS:
    return text.lstrip(" ")
  return text if text[:1].isspace() else f" {text}"


def lessons(
  stage: str, settings: TuneStage, drawn: Drawn | None, tokenizer: Tokenizer, form: str, seed: int
) -> Lessons:
  """The samples of a stage in the learner's tokens: what was drawn, and of each file its share.

  What is longer than the stage's `length`, or cannot be said in the learner's tokens, is left out,
  told and counted. ConfigError where nothing is left.
  """
  counts, hashes = {}, {}
  samples: list[Sample] = []
  if drawn is not None:
    samples = _encoded(drawn.records, f"the samples for {stage}", tokenizer, form, settings.length)
    counts = {"samples": len(samples), "samples_left_out": len(drawn.records) - len(samples)}
    hashes["samples"] = drawn.digest
  sampled = len(samples)
  room = 1 - sum(written.share for written in settings.written.values())
  for name, written in settings.written.items():
    found, read = read_written(written, tokenizer, form, settings.length)
    counts[f"{name}_left_out"] = read - len(found)
    if written.share:
      wanted = round(sampled * written.share / room)
      _tell_if_fewer(stage, name, wanted, len(found))
      found = some_of(found, wanted, seed)
    counts[name] = len(found)
    hashes[name] = written_digest(written)
    samples = samples + found
  require(
    bool(samples),
    f"{stage} has nothing to learn from: none of {len(drawn.records) if drawn else 0} samples and "
    "of the written answers fits; raise its length, or its samples.prompts.",
  )
  return Lessons(samples, counts, hashes)


def written_digest(written: WrittenConfig) -> str:
  """SHA-256 of what the files are; of one file its own."""
  found = written_fingerprint(written)
  if len(found) == 1:
    return next(iter(found.values()))["sha256"]
  return records_digest([found])


def written_fingerprint(written: WrittenConfig) -> dict[str, Any]:
  """The files with their sizes and hashes; see `sources.fingerprint`."""
  files = written_files(written)
  return fingerprint(files, files[0] if len(files) == 1 else dataset_path(written.path))


def _encoded(
  records: Sequence[Mapping[str, str]], name: str, tokenizer: Tokenizer, form: str, length: int
) -> list[Sample]:
  """Records in tokens, without those that do not fit."""
  omissions, kept = Omissions(name), []
  for number, record in enumerate(records, start=1):
    try:
      sample = make_sample(tokenizer, Document(record["text"], record["prompt"]), form)
      require(
        len(sample) <= length, f"has {len(sample)} tokens, more than the stage's length, {length}."
      )
      kept.append(sample)
    except ConfigError as error:  # too long, or nothing that the tokenizer can say
      omissions.add(f"sample {number} of {name}", str(error))
  omissions.total(len(records))
  return kept


def _tell_if_fewer(stage: str, name: str, wanted: int, there: int) -> None:
  if there < wanted:
    print(
      f"{stage}: {name} has {there} records for the {wanted} that its share asks for; all of them "
      "are learnt",
      file=sys.stderr,
      flush=True,
    )
