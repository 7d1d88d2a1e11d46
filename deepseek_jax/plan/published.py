"""Published costs, from first principles and stated utilisations.

Every figure is one of three kinds, and says which:
  published  by DeepSeek or OpenAI: 2412.19437 (V3), 2501.12948 (R1), 2505.09343 (Insights into
             DeepSeek-V3), the overview of the inference system (github.com/deepseek-ai/
             open-infra-index, February 2025), price lists of January 2025
  counted    from the model's shapes (plan/flops.py), or calculated from others
  stated     here, since nobody has published it: chosen so that the published total follows, and so
             a reading of it and no evidence for it

MFU is that of 2505.09343, table 4, which counts attention over whole squares, 43.73 %. With it the
hours of pre-training follow, and with nothing changed those of the extension to 128K; the causal
count and its 38.94 % would give 76K hours for the latter in place of 119K.
"""

import dataclasses

from deepseek_jax.plan.flops import forward_flops
from deepseek_jax.plan.hardware import DEVICES
from deepseek_jax.presets import preset

PUBLISHED, COUNTED, STATED = "published", "counted", "stated"
_PRICE = 2.0  # US dollars per H800-hour, 2412.19437, table 1
_MFU = 0.4373
_DAY = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Line:
  """One step of a derivation."""

  what: str
  value: float
  unit: str
  kind: str


@dataclasses.dataclass(frozen=True)
class Derivation:
  """How a published figure follows."""

  title: str
  lines: tuple[Line, ...]
  results: tuple[tuple[str, float, float, str], ...]  # name, published, derived, unit

  def errors(self) -> dict[str, float]:
    """Relative differences of the results."""
    return {name: derived / told - 1 for name, told, derived, _ in self.results}


def derivations() -> list[Derivation]:
  """All of them, in the order in which they rest on one another."""
  return [v3_training(), r1_training(), serving_margin(), r1_prices()]


def _hours(flops: float, utilisation: float) -> float:
  """H800-hours of so many operations."""
  return flops / (DEVICES["h800"].flops["bfloat16"] * utilisation) / 3600


def v3_training() -> Derivation:
  """2,788K H800-hours and $5.576M (2412.19437, table 1)."""
  model = preset("v3_671b")
  lines = [Line("share of H800's 989.4 TFLOP/s (MFU)", 100 * _MFU, "%", PUBLISHED)]
  phases = {
    "pre-training": (14.8e12, 4096),
    "extension to 32K": (1000 * 1920 * 32_768.0, 32_768),
    "extension to 128K": (1000 * 480 * 131_072.0, 131_072),
  }
  hours: dict[str, float] = {}
  for name, (tokens, length) in phases.items():
    each = 3 * forward_flops(model, length)
    hours[name] = _hours(tokens * each, _MFU)
    lines += [
      Line(f"{name}: tokens", tokens / 1e9, "B", PUBLISHED),
      Line(f"{name}: FLOPs of a token", each / 1e9, "GFLOP", COUNTED),
      Line(f"{name}: H800-hours", hours[name] / 1e3, "K", COUNTED),
    ]
  after = 5_000.0  # of which neither tokens nor steps are published
  lines.append(Line("post-training: H800-hours", after / 1e3, "K", PUBLISHED))
  first = hours.pop("pre-training")
  extension = sum(hours.values())
  total = first + extension + after
  return Derivation(
    "What V3's training took",
    tuple(lines),
    (
      ("pre-training", 2664, first / 1e3, "K H800-hours"),
      ("context extension", 119, extension / 1e3, "K H800-hours"),
      ("total", 2788, total / 1e3, "K H800-hours"),
      ("cost at $2 an hour", 5.576, total * _PRICE / 1e6, "M$"),
    ),
  )


def r1_training() -> Derivation:
  """147K H800-hours and $294K (2501.12948, supplement): R1-Zero, data for fine-tuning, R1."""
  model = preset("r1_671b")
  length, utilisation, first_steps, drawn = 8000.0, 0.055, 2350, 7.7
  outputs, kept = 512, 804_745 * 5355.0
  forward = forward_flops(model, length / 2)
  # Sampling and the reference's score are a forward pass each, an update is three.
  step = _hours(outputs * length * 5 * forward, utilisation)
  zero = 10_400 * step
  data = drawn * kept / 14_800 / 3600 * 8
  tuning = _hours(2 * kept * 3 * forward_flops(model, 5355), _MFU)
  final = (first_steps + 1700) * step + tuning
  total = zero + data + final
  lines = (
    Line("outputs of a step of reinforcement", outputs, "", PUBLISHED),
    Line("steps of R1-Zero", 10_400, "", PUBLISHED),
    Line("mean tokens of an output", length, "", STATED),
    Line("FLOPs of an output's token: 5 forward passes", 5 * forward / 1e9, "GFLOP", COUNTED),
    Line("share of the peak, all waiting included", 100 * utilisation, "%", STATED),
    Line("R1-Zero: seconds of a step on 512 H800", step * 3600 / 512, "s", COUNTED),
    Line("R1-Zero: the paper's 198 hours on 512 H800", 198 * 512 / 1e3, "K hours", PUBLISHED),
    Line("tokens of the 804,745 samples for fine-tuning", kept / 1e9, "B", PUBLISHED),
    Line("tokens drawn for one kept", drawn, "", STATED),
    Line("tokens decoded by a node of 8 H800", 14_800, "/s", PUBLISHED),
    Line("steps of R1's second reinforcement", 1700, "", PUBLISHED),
    Line("steps of R1's first reinforcement", first_steps, "", STATED),
    Line("R1: two epochs of fine-tuning", tuning / 1e3, "K hours", COUNTED),
  )
  return Derivation(
    "What R1's training took, beyond V3's",
    lines,
    (
      ("R1-Zero", 101, zero / 1e3, "K H800-hours"),
      ("data for fine-tuning", 5, data / 1e3, "K H800-hours"),
      ("R1", 41, final / 1e3, "K H800-hours"),
      ("total", 147, total / 1e3, "K H800-hours"),
      ("cost at $2 an hour", 294, total * _PRICE / 1e3, "K$"),
    ),
  )


@dataclasses.dataclass(frozen=True)
class Traffic:
  """A day of DeepSeek's service, to 28 February 2025, and R1's prices in US dollars per million."""

  hits: float = 342e9  # input tokens found in the cache
  misses: float = 266e9
  output: float = 168e9
  prefill: float = 73_700.0  # input tokens per second of a node, hits included
  decode: float = 14_800.0
  hit_price: float = 0.14
  miss_price: float = 0.55
  output_price: float = 2.19

  @property
  def nodes(self) -> float:
    """Of 8 H800, on the average of the day."""
    inputs = (self.hits + self.misses) / self.prefill
    return (inputs + self.output / self.decode) / _DAY

  @property
  def cost(self) -> float:
    """US dollars a day."""
    return self.nodes * 8 * 24 * _PRICE

  @property
  def revenue(self) -> float:
    """US dollars a day, were every token R1's and paid."""
    return (
      self.hits * self.hit_price + self.misses * self.miss_price + self.output * self.output_price
    ) / 1e6


def serving_margin() -> Derivation:
  """The 545 % by which a day's revenue would exceed its cost."""
  day, model = Traffic(), preset("r1_671b")
  peak = DEVICES["h800"].flops["bfloat16"]
  computed = day.prefill * day.misses / (day.hits + day.misses) / 8
  read = computed * forward_flops(model, 4989) / peak
  margin = day.revenue / day.cost - 1
  lines = (
    Line("input tokens a day, found in the cache", day.hits / 1e9, "B", PUBLISHED),
    Line("input tokens a day, to be read", day.misses / 1e9, "B", PUBLISHED),
    Line("output tokens a day", day.output / 1e9, "B", PUBLISHED),
    Line("input tokens of a node, hits included", day.prefill, "/s", PUBLISHED),
    Line("of them read by each H800", computed, "/s", COUNTED),
    Line("which takes of its bfloat16 peak", 100 * read, "%", COUNTED),
    Line("output tokens of a node", day.decode, "/s", PUBLISHED),
    Line("which takes of HBM's speed, at 21/s a user", 100 * _decode_share(day), "%", COUNTED),
    Line("price of an H800-hour", _PRICE, "$", PUBLISHED),
    Line("R1's prices: hit", day.hit_price, "$/M", PUBLISHED),
    Line("R1's prices: miss", day.miss_price, "$/M", PUBLISHED),
    Line("R1's prices: output", day.output_price, "$/M", PUBLISHED),
  )
  return Derivation(
    "The margin of serving R1",
    lines,
    (
      ("nodes of 8 H800", 226.75, day.nodes, ""),
      ("cost of a day", 87_072, day.cost, "$"),
      ("revenue of a day", 562_027, day.revenue, "$"),
      ("margin over cost", 545, 100 * margin, "%"),
    ),
  )


def _decode_share(day: Traffic) -> float:
  """What share of HBM's bandwidth decoding uses: weights and caches read at each user's pace.

  144 H800 decode together, two routed experts and a shared one on each, at 20 to 22 tokens a second
  and 4,989 tokens of context; attention and dense layers are whole on every device.
  """
  model = preset("r1_671b")
  assert model.moe is not None
  pace, context = 21.0, 4989
  rows = day.decode / 8 / pace
  expert = 3 * model.d_model * model.moe.expert_ff
  whole = forward_flops(model, 0) / 2 - model.expert_layers * (model.moe.top_k + 1) * expert
  weights = whole + model.expert_layers * 3 * expert  # bytes, in FP8
  caches = rows * context * 70_272
  return (weights + caches) * pace / DEVICES["h800"].bandwidth


def r1_prices() -> Derivation:
  """$0.55 and $2.19 from the cost, the margin and the list's ratios, beside o1's $15 and $60.

  The margin was told with these prices: what follows anew is that cost, margin and ratios are one.
  """
  day = Traffic()
  parts = day.hits / 16 + day.misses / 4 + day.output  # in tokens of output
  output = day.cost * (1 + 5.45) / parts * 1e6
  made = 8 * _PRICE / 3600 / day.decode * 1e6
  o1 = (day.hits * 7.5 + day.misses * 15 + day.output * 60) / 1e6
  lines = (
    Line("cost of a day", day.cost, "$", COUNTED),
    Line("margin over cost", 545, "%", PUBLISHED),
    Line("a miss costs a quarter of an output token, a hit a sixteenth", 0.25, "", COUNTED),
    Line("cost of a million output tokens", made, "$", COUNTED),
    Line("R1's output price over that", day.output_price / made, "times", COUNTED),
    Line("o1's prices over R1's: input", 15 / day.miss_price, "times", COUNTED),
    Line("o1's prices over R1's: output", 60 / day.output_price, "times", COUNTED),
    Line("the same day at o1's $7.50, $15 and $60", o1, "$", COUNTED),
    Line("which is over R1's cost", o1 / day.cost, "times", COUNTED),
  )
  return Derivation(
    "R1's prices, beside o1's",
    lines,
    (
      ("a million input tokens", 0.55, output / 4, "$"),
      ("a million output tokens", 2.19, output, "$"),
    ),
  )
