"""Records that are left out of a corpus: counted, and told with their file and line."""

import sys

_TOLD = 5  # one by one; then the count is told each time it has grown tenfold


class Omissions:
  """What is left out of one corpus; a record counts once, however often it is met."""

  def __init__(self, corpus: str):
    self.corpus = corpus
    self._found: dict[str, str] = {}  # by place, why

  def __len__(self) -> int:
    return len(self._found)

  def add(self, where: str, why: str) -> None:
    """Leaves out the record at a place, such as `x.jsonl, line 7`, which `why` speaks about."""
    if where in self._found:
      return
    self._found[where] = why
    count = len(self)
    if count <= _TOLD:
      self._tell(f"left out: {where}, {why.rstrip('.')}")
    elif count >= 10 and str(count).strip("0") == "1":
      self._tell(f"left out so far: {count} records of {self.corpus}")

  def total(self, of: int) -> None:
    """Tells how many were left out, where some were."""
    if len(self) > _TOLD:
      self._tell(f"left out in all: {len(self)} of {of} records of {self.corpus}")

  def nothing_left(self) -> str:
    """What to say where every record was left out."""
    if not self._found:
      return f"the corpus has no text in any document: {self.corpus}; name another data.path."
    where, why = next(iter(self._found.items()))
    return (
      f"the corpus {self.corpus} has nothing left to learn from: {len(self)} records were left "
      f"out, the first of them {where}, {why}"
    )

  def _tell(self, text: str) -> None:
    print(text, file=sys.stderr, flush=True)
