"""A plan as rows of named values, which a terminal and a page show alike."""

import dataclasses
from collections.abc import Sequence

from deepseek_jax.config import ModelConfig
from deepseek_jax.plan.collectives import Collective
from deepseek_jax.plan.compiled import Compiled
from deepseek_jax.plan.estimate import Plan, told
from deepseek_jax.plan.flops import active_parameters, flops_by_part, parameters
from deepseek_jax.plan.memory import cache_bytes, readable
from deepseek_jax.plan.published import Derivation
from deepseek_jax.plan.roofline import Attained
from deepseek_jax.plan.serving import smallest_group
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.traffic import copies


@dataclasses.dataclass(frozen=True)
class Table:
  """Named columns, and rows of texts."""

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]

  def text(self) -> str:
    """For a terminal: the first column to the left, the others to the right."""
    lines = [self.columns, *self.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
    shown = [
      "  ".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
      ).rstrip()
      for line in lines
    ]
    return "\n".join([self.title, *(f"  {line}" for line in shown)])


def tables(plan: Plan, context: int) -> list[Table]:
  """All of a plan; `context` is the length of the request that is served."""
  return [
    model_table(plan),
    memory_table(plan),
    links_table(plan),
    time_table(plan),
    request_table(plan.workload.model, plan.topology, context, plan.attained),
  ]


def heading(plan: Plan) -> str:
  """What is planned, in one line."""
  work, topology = plan.workload, plan.topology
  batch = f"{work.micro_batches} x {work.rows:,} rows of {work.length:,} tokens"
  where = f"{topology.name}, {topology.devices:,} devices, mesh {told(work.mesh, least=2)}"
  return f"{work.name}, {work.kind}: {where}; {batch}"


def model_table(plan: Plan) -> Table:
  """Parameters, and a token's operations by part."""
  work = plan.workload
  parts = flops_by_part(work.model, work.length / 2, mtp=True)
  rows = [(name, f"{count / 1e9:,.3f}", f"{3 * count / 1e9:,.3f}") for name, count in parts.items()]
  whole = sum(parts.values())
  rows.append(("sum", f"{whole / 1e9:,.3f}", f"{3 * whole / 1e9:,.3f}"))
  total, active = parameters(work.model), active_parameters(work.model)
  title = f"Parameters {billions(total)}, active {billions(active)}"
  if work.model.mtp_depth:
    added = parameters(work.model, mtp=True) - total
    title += f", MTP {billions(added)} more"
  return Table(
    f"{title}; FLOPs of a token that sees {work.length // 2:,}",
    ("part", "forward GFLOP", "training GFLOP"),
    tuple(rows),
  )


def memory_table(plan: Plan) -> Table:
  """A device's bytes by kind."""
  print_ = plan.footprint
  limit = plan.topology.device.memory
  rows = [(kind, readable(int(size))) for kind, size in print_.kinds.items() if size]
  rows.append(("sum", readable(int(print_.total))))
  fits = "fits into" if plan.fits else "does NOT fit into"
  phase = "" if plan.phases is None else f" while {print_.phase} takes most"
  return Table(
    f"Memory of a device{phase}: {fits} the {readable(limit)} of {plan.topology.device.name}",
    ("kind", "bytes"),
    tuple(rows),
  )


def links_table(plan: Plan) -> Table:
  """Bytes that a device receives in a step."""
  away = copies(plan.workload, plan.topology)
  title = "Received by a device in a step"
  if away.link or away.network:
    title += (
      f"; of a token {away.link:.2f} copies travel within its domain, {away.network:.2f} beyond"
    )
  link = "ICI" if plan.topology.device.torus else "NVLink"
  rows = tuple(
    (name, readable(int(moved.link)), readable(int(moved.network)))
    for name, moved in plan.sent.items()
  )
  return Table(title, ("what", link, "network"), rows or (("nothing", "0 B", "0 B"),))


def time_table(plan: Plan) -> Table:
  """Seconds by what takes them, speed and cost."""
  time, topology = plan.time, plan.topology
  rows = [
    ("computing", seconds(time.compute)),
    ("HBM", seconds(time.memory)),
    ("fast links", seconds(time.link)),
    ("network", seconds(time.network)),
    ("summing over tensor", seconds(time.summing)),
    ("sending that nothing hides", seconds(time.exposed)),
    ("optimiser", seconds(time.optimiser)),
    ("step", seconds(time.seconds)),
    ("trained tokens a second", f"{time.tokens_per_second:,.0f}"),
    ("of the bfloat16 peak (MFU)", f"{time.utilisation(topology):.1%}"),
  ]
  if plan.phases is not None:
    rows += [
      ("iteration: sampling", seconds(plan.phases.sampling)),
      ("iteration: scoring", seconds(plan.phases.scoring)),
      ("iteration: updating", seconds(plan.phases.updating)),
      ("iteration: weights to the sampler", seconds(plan.phases.weights)),
      ("iteration", seconds(plan.phases.seconds)),
      ("sampled tokens a second", f"{plan.tokens_per_second:,.0f}"),
    ]
  rows += [
    ("device-hours of a trillion tokens", f"{plan.hours_per_trillion:,.0f}"),
    (f"their price at ${plan.price:g}", f"${plan.price_per_trillion:,.0f}"),
  ]
  shares = dataclasses.asdict(plan.attained)
  stated = ", ".join(f"{name} {share:g}" for name, share in shares.items())
  title = f"Time, {time.bound}-bound; shares of the makers' figures attained: {stated}"
  return Table(title, ("what", "a step"), tuple(rows))


def request_table(
  model: ModelConfig, topology: Topology, context: int, attained: Attained
) -> Table:
  """One long request, alone and among as many as fit, on the fewest devices that hold it."""
  dtypes = (
    ("bfloat16", "fp8")
    if topology.device.flops["fp8"] > topology.device.flops["bfloat16"]
    else ("bfloat16",)
  )
  cache = cache_bytes(model, context)
  rows = []
  for dtype in dtypes:
    group = smallest_group(model, topology, context, dtype, attained)
    if group is None:
      rows.append((dtype, "does not fit", "", "", "", "", ""))
      continue
    most = group.rows(context)
    alone, together = 1 / group.step(1, context), most / group.step(most, context)
    rows.append(
      (
        dtype,
        f"{group.devices}",
        readable(int(group.weights)),
        seconds(group.prefill(context)),
        f"{alone:,.1f}",
        f"{most:,}",
        f"{together:,.0f}",
      )
    )
  return Table(
    f"A request of {context:,} tokens: its cache takes {readable(cache)} in bfloat16",
    (
      "weights", "devices", "of them on each", "to read it", "tokens/s alone", "requests",
      "tokens/s of all",
    ),
    tuple(rows),
  )  # fmt: skip


def meshes_table(plans: list[Plan], most: int = 8) -> Table:
  """The quickest meshes of a search."""
  rows = tuple(
    (
      told(made.workload.mesh, least=2),
      f"{made.workload.micro_batches} x {made.workload.rows:,}",
      readable(int(made.footprint.total)),
      seconds(made.seconds),
      f"{made.tokens_per_second:,.0f}",
      f"{made.time.utilisation(made.topology):.1%}",
    )
    for made in plans[:most]
  )
  return Table(
    f"The quickest of {len(plans)} meshes that fit",
    ("mesh", "rows", "a device", "step", "tokens/s", "MFU"),
    rows,
  )


def compiled_table(plan: Plan, found: Compiled) -> Table:
  """What the compiler says of a device, beside the plan."""
  kept, total = plan.footprint.kept, plan.footprint.total
  rows = []
  for name, planned, compiled in (
    ("state (arguments)", kept, found.arguments),
    ("all the rest (temporaries)", total - kept, found.temporaries),
    ("sum", total, found.arguments + found.temporaries),
  ):
    sizes = readable(int(planned)), readable(int(compiled))
    rows.append((name, *sizes, f"{planned / compiled:.2f}"))
  told_ = ", ".join(_by_kind(found.collectives))
  verdict = "it fits" if found.fits else "it does NOT fit"
  return Table(
    f"Compiled in {seconds(found.seconds)}: {verdict}; {told_ or 'no collectives'}",
    ("memory of a device", "planned", "compiled", "ratio"),
    tuple(rows),
  )


def _by_kind(found: Sequence[Collective]) -> list[str]:
  """How many collectives of a kind are in a program, and what a device sends by them in a step."""
  kinds = sorted({one.kind for one in found})
  own = {kind: [one for one in found if one.kind == kind] for kind in kinds}
  return [
    f"{len(some)} {kind} ({readable(int(sum(one.sent for one in some)))})"
    for kind, some in own.items()
  ]


def published_table(derivation: Derivation) -> Table:
  """How a published figure follows."""
  rows = [
    (line.what, f"{line.value:,.4g} {line.unit}".strip(), line.kind) for line in derivation.lines
  ]
  for name, told_, derived, unit in derivation.results:
    error = derivation.errors()[name]
    value = f"{derived:,.5g} {unit}".strip()
    rows.append((f"= {name}", value, f"published {told_:,.6g}, {error:+.2%}"))
  return Table(derivation.title, ("what", "value", "whence"), tuple(rows))


def seconds(value: float) -> str:
  """In the unit that makes it short."""
  if value >= 600:
    return f"{value / 60:,.1f} min" if value < 36_000 else f"{value / 3600:,.1f} h"
  return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def billions(count: int) -> str:
  """A number of parameters."""
  return f"{count / 1e9:,.3f}B" if count >= 10**8 else f"{count:,}"
