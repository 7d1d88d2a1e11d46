"""Continuous batching: which request is in which row, and how long the rows are advanced.

Host code around the compiled programs of `rows` and `step`. Nothing here depends on time, so that
the same call gives the same samples: rollouts are done again when a run is resumed. And so several
processes do the same, each with all that was sampled.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from deepseek_jax.decode.prompts import Prefilled, Prefiller, bucket
from deepseek_jax.decode.request import Event, Request
from deepseek_jax.decode.rows import empty_rows, insert, regather, retire, take_rows
from deepseek_jax.decode.speculative import first_drafts, speculate
from deepseek_jax.decode.step import Emitted, decode, empty_cache
from deepseek_jax.hosts import arrays, heartbeat
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.sharding import shard_batch
from deepseek_jax.types import Weights

Halt = Callable[[int, list[int]], int | None]

_GRAIN = 32  # slots of a short cache are a multiple of it
_DOUBLING = 512  # slots from which a cache grows, by doubling; a shorter one has its size at once
_FEWEST = 16  # rows; giving up some of so few saves less than it costs to compile for fewer
_PROMPT_TOKENS = 8192  # that are computed at once, padding included


class Schedule:
  """Requests being decoded in the rows of one cache."""

  def __init__(
    self,
    model: Transformer,
    weights: Weights,
    requests: Sequence[Request],
    sizes: Sequence[int],
    steps: int,
    piece: int,
    drafts: int = 0,
    halt: Halt | None = None,
  ):
    """`sizes` are the numbers of rows that may be compiled, the largest first.

    Of requests with unequal limits the longest enter first: it leaves the fewest rows idle at the
    end.
    """
    self._model, self._weights, self._halt = model, weights, halt
    self._sizes, self._steps, self._drafts = sizes, steps, drafts
    prefiller = Prefiller(model, weights, piece, drafting=drafts > 0)
    self._prefiller = prefiller.sharing([r.prompt for r in requests])
    self._waiting = deque(sorted(requests, key=lambda r: -r.params.max_new))
    size = min((s for s in sizes if s >= len(requests)), default=sizes[0])
    self._stops = bucket(max(len(r.params.stop) for r in requests), 4)
    words = len(requests[0].key_W)
    self._owner: list[Request | None] = [None] * size
    self._rows = shard_batch(model.mesh, empty_rows(size, words, self._stops))
    self._drafts_BK: Any = np.zeros((size, drafts), np.int32)
    self._whole = self._slots_of_all(requests)
    self._index = self._slots = 0  # there are no slots before the first prompts
    self._cache = empty_cache(model, size, 0, drafts > 0)
    self._changed: list[Request] = []

  def run(self) -> Iterator[Event]:
    """Decodes everything; what is new of a request is told after each turn."""
    while self._waiting or any(self._owner):
      heartbeat.move("sampling")
      if self._waiting and self._free() >= self._turnover():
        self._admit()
      else:
        self._make_room()
        self._advance()
      yield from self._tell()

  @property
  def _most(self) -> int:
    """Slots that one step may write, guesses beyond the next step's included."""
    return self._drafts + 1 + max(self._drafts - 1, 0)

  def _free(self) -> int:
    return self._owner.count(None)

  def _turnover(self) -> int:
    """Rows that must be free before prompts are computed for them; a few at a time is cheaper."""
    return min(len(self._waiting), max(1, len(self._owner) // 8))

  def _live(self) -> list[Request]:
    return [request for request in self._owner if request is not None]

  def _admit(self) -> None:
    """Computes the prompts of the next requests and puts them into free rows."""
    entering = [self._waiting.popleft() for _ in range(min(self._free(), len(self._waiting)))]
    groups: dict[tuple[int, ...], list[Request]] = {}
    for request in entering:
      groups.setdefault(tuple(request.prompt), []).append(request)
    prompts = list(groups)
    at_once = self._at_once(prompts)
    for at in range(0, len(prompts), at_once):
      part = prompts[at : at + at_once]
      self._enter(self._prefiller(part, at_once), [groups[prompt] for prompt in part])

  def _at_once(self, prompts: Sequence[Sequence[int]]) -> int:
    """How many prompts are computed at a time: one of two numbers, unless they are long."""
    rows = len(self._owner)
    count = rows if len(prompts) > rows // 2 else max(rows // 8, min(rows, 2))
    while count > 1 and count * self._prefiller.width(prompts) > _PROMPT_TOKENS:
      count //= 2
    return count

  def _enter(self, prompts: Prefilled, groups: list[list[Request]]) -> None:
    """Puts each prompt's requests into free rows, and takes their first tokens."""
    self._make_room(prompts.slots, [r for group in groups for r in group])
    source_B = np.full(len(self._owner), -1, np.int32)
    free = [row for row, owner in enumerate(self._owner) if owner is None]
    rows = iter(free)
    entered: list[tuple[int, Request]] = []
    for n, group in enumerate(groups):
      for request in group:
        row = next(rows)
        source_B[row], self._owner[row] = n, request
        request.experts.append(prompts.experts[n])
        entered.append((row, request))
    fresh = self._fresh(entered)
    self._rows, self._cache, token_B, logprob_B = insert(
      self._rows, self._cache, fresh, source_B, prompts.cache, prompts.logits_NV
    )
    if self._drafts:
      hidden_BD = prompts.hidden_ND[np.maximum(source_B, 0)]
      self._cache, self._drafts_BK = first_drafts(
        self._model, self._weights, self._rows, self._cache, self._drafts_BK,
        hidden_BD, source_B >= 0, drafts=self._drafts,
      )  # fmt: skip
    token_B, logprob_B, live_B = arrays.read((token_B, logprob_B, self._rows.live_B))
    for row, request in entered:
      request.take(token_B[row, None], logprob_B[row, None])
    self._close((row for row, _ in entered), live_B)

  def _fresh(self, entered: Iterable[tuple[int, Request]]):
    """The state of rows that begin."""
    words = self._rows.keys_BW.shape[1]
    rows: Any = empty_rows(len(self._owner), words, self._stops)
    for row, request in entered:
      params = request.params
      rows.position_B[row] = len(request.prompt) - 1
      rows.limit_B[row] = params.max_new
      rows.rule.temperature_B[row] = params.temperature
      rows.rule.top_p_B[row] = params.top_p
      # More than all is all, and may be more than an int32 can hold.
      rows.rule.top_k_B[row] = min(params.top_k, self._model.config.vocab)
      rows.stop_BK[row, : len(params.stop)] = params.stop
      rows.keys_BW[row] = request.key_W
    return shard_batch(self._model.mesh, rows)

  def _make_room(self, prompt: int = 0, entering: Sequence[Request] = ()) -> None:
    """Sees to rows and slots: `prompt` slots before the index, or one for the next token.

    Without requests waiting, rows that fell empty are given up as soon as fewer rows suffice.
    """
    live = self._live()
    if prompt and not live:
      self._index = prompt
      self._slots = self._size()
      cache = empty_cache(self._model, len(self._owner), self._slots, self._drafts > 0)
      self._cache = dataclasses.replace(cache, index=np.int32(self._index))
      return
    rows = len(self._owner)
    if not (self._waiting or prompt):
      rows = min(size for size in [rows, *self._fewer] if size >= len(live))
    full = self._slots - self._index < self._most
    if rows == len(self._owner) and not full and self._index >= prompt:
      return
    self._index = max(prompt, *(len(r.prompt) + len(r.tokens) for r in live))
    self._slots = self._size()
    self._move(rows)

  @property
  def _fewer(self) -> list[int]:
    """The numbers of rows to which the present one may shrink."""
    return [size for size in self._sizes if _FEWEST <= size < len(self._owner)]

  def _slots_of_all(self, requests: Sequence[Request]) -> int:
    """Slots that suffice for every request to its limit."""
    longest = max(len(r.prompt) + r.params.max_new for r in requests)
    widest = self._prefiller.width([r.prompt for r in requests])
    if self._prefiller.start is not None:
      widest += self._prefiller.start.slots
    need = max(longest, widest) + 2 * self._most
    grain = _GRAIN if need <= _DOUBLING else _DOUBLING
    return -(-need // grain) * grain

  def _size(self) -> int:
    """Slots for what is in the cache and a few runs of steps, but for no more than is asked.

    Of few sizes, for each is compiled. A short cache has room for everything at once.
    """
    need = self._index + 2 * self._steps + 2 * self._most
    return min(bucket(need, _DOUBLING), self._whole)

  def _move(self, rows: int) -> None:
    """Gathers the owned rows into a cache of the size that was decided on."""
    take = list(range(rows))
    if rows != len(self._owner):
      take = [row for row, owner in enumerate(self._owner) if owner is not None]
      take += [-1] * (rows - len(take))
      self._owner = [self._owner[row] if row >= 0 else None for row in take]
      self._rows = take_rows(self._rows, np.array(take, np.int32))
      self._drafts_BK = self._drafts_BK[np.maximum(take, 0)]
    take_B = np.array(take, np.int32)
    self._cache = regather(self._cache, take_B, np.int32(self._index), slots=self._slots)

  def _advance(self) -> None:
    """Steps until the slots or the limits are used up or rows have come free for a purpose."""
    remaining = max(r.params.max_new - len(r.tokens) for r in self._live())
    room = (self._slots - self._index - max(self._drafts - 1, 0)) // (self._drafts + 1)
    emitted = self._run(min(self._steps, room, remaining))
    emitted, live_B, index = arrays.read((emitted, self._rows.live_B, self._cache.index))
    self._index = int(index)
    for row, request in enumerate(self._owner):
      if request is not None:
        taken_T = emitted.tokens_TB[:, row] >= 0
        request.take(emitted.tokens_TB[taken_T, row], emitted.logprobs_TB[taken_T, row])
        request.experts.append(emitted.experts_TLBA[taken_T, :, row].swapaxes(0, 1))
        request.passes += int(taken_T[:: self._drafts + 1].sum())
    self._close(range(len(self._owner)), live_B)

  def _run(self, limit: int) -> Emitted:
    """Up to `limit` steps, plain or speculative."""
    bounds = (np.int32(limit), np.int32(self._idle()))
    if not self._drafts:
      self._rows, self._cache, emitted = decode(
        self._model, self._weights, self._rows, self._cache, *bounds, steps=self._steps
      )
      return emitted
    self._rows, self._cache, self._drafts_BK, emitted = speculate(
      self._model, self._weights, self._rows, self._cache, self._drafts_BK, *bounds,
      steps=self._steps, drafts=self._drafts,
    )  # fmt: skip
    return emitted

  def _idle(self) -> int:
    """How many rows without a live request end a run of steps."""
    size = len(self._owner)
    if self._waiting:
      return self._turnover()
    return size - min(max(self._fewer, default=0), len(self._live()) - 1)

  def _close(self, rows: Iterable[int], live_B: np.ndarray) -> None:
    """Ends what stopped, reached its limit, or is halted."""
    ended_B = np.zeros(len(self._owner), bool)
    for row in rows:
      request = self._owner[row]
      if request is None:
        continue
      if not live_B[row]:
        stopped = request.tokens[-1] in request.params.stop
        request.finish = "stop" if stopped else "length"
      kept = None if self._halt is None else self._halt(request.number, request.tokens)
      if kept is not None:
        request.keep(kept)
      self._changed.append(request)
      if request.finish:
        ended_B[row] = live_B[row]
        self._owner[row] = None
    if ended_B.any():
      self._rows = retire(self._rows, ended_B)

  def _tell(self) -> Iterator[Event]:
    """Events of what this turn changed."""
    changed, self._changed = self._changed, []
    for request in changed:
      new = slice(request.told, len(request.tokens))
      request.told = len(request.tokens)
      yield Event(request.number, request.tokens[new], request.logprobs[new], request.finish)
