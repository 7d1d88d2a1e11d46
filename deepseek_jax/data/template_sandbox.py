"""A jinja2 environment for templates that strangers wrote; needs jinja2, of the extra `hf`.

jinja2's own sandbox keeps a template from everything but the values it is given. It does not keep
one from running without end or filling memory, so here loops and macros are counted, and whatever
a template builds, repeats or prints is weighed. Import this module inside a function: jinja2 is
optional.
"""

import datetime
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_TURNS = 200_000  # of loops and macros in one rendering
_LARGEST = 10_000_000  # characters of anything that is built, and of all that is printed
_WIDEST = 10_000  # of a number that says how often or how wide
_REMOVED = ("lipsum", "cycler", "joiner")  # reach into jinja2's own modules, and serve no chat


class Sandbox(ImmutableSandboxedEnvironment):
  """An environment with transformers' settings and names, good for one rendering."""

  intercepted_binops = frozenset(("+", "*", "**", "%"))

  def __init__(self) -> None:
    super().__init__(
      trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], cache_size=0
    )
    self._turns, self._printed = 0, 0
    self.filters = {name: self._weighing(each) for name, each in self.filters.items()}
    self.filters["tojson"] = self._weighing(_to_json)
    for name in _REMOVED:
      del self.globals[name]
    self.globals |= {
      "namespace": _Names,
      "dict": lambda *pairs, **named: dict(*pairs, **named),
      "raise_exception": _refuse,
      "strftime_now": lambda form: datetime.datetime.now().strftime(form),
    }

  def render(self, source: str, variables: Mapping[str, Any]) -> str:
    """The text of a template. Raises what jinja2 and Python raise."""
    code: Any = _compiled(source)
    template = self.template_class.from_code(self, code, self.make_globals(None))
    return template.render(**variables)

  def guarded_code(self, source: str) -> Any:
    """What Python runs for a template, in this environment or another."""
    tree = self.parse(source)
    self._guard(tree)
    return self.compile(tree)

  def _guard(self, tree: nodes.Template) -> None:
    """Has every loop and macro counted, and all that is printed or joined weighed."""
    for reference in tree.find_all(nodes.NSRef):
      _plain_name(reference.attr)
    for parent in [tree, *tree.find_all(nodes.Node)]:
      for field, value in list(parent.iter_fields()):
        if isinstance(value, list):
          setattr(parent, field, [self._weighing_joins(each) for each in value])
        else:
          setattr(parent, field, self._weighing_joins(value))
      if isinstance(parent, nodes.Output):
        parent.nodes = [self._call("printed", [_expression(each)]) for each in parent.nodes]
      if isinstance(parent, nodes.For | nodes.Macro | nodes.CallBlock):
        turn = nodes.ExprStmt(self._call("turn", []), lineno=parent.lineno)
        parent.body.insert(0, turn)

  def _weighing_joins(self, value: Any) -> Any:
    """A call of `joined` for a concatenation; anything else as it is."""
    return self._call("joined", value.nodes) if isinstance(value, nodes.Concat) else value

  def _call(self, name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    """A call of a method of this environment, by a name that no template can bind."""
    called = nodes.EnvironmentAttribute(name, lineno=1)
    return nodes.Call(called, arguments, [], None, None, lineno=1)

  def turn(self) -> None:
    """Counts one turn of a loop or macro."""
    self._turns += 1
    if self._turns > _TURNS:
      raise SecurityError(f"it loops more than {_TURNS} times")

  def weighed(self, value: Any) -> Any:
    """The value, unless it is too large."""
    if _weight(value) > _LARGEST:
      raise SecurityError(f"it builds more than {_LARGEST} characters")
    return value

  def joined(self, *values: Any) -> str:
    """What `~` joins."""
    self.weighed(values)
    return "".join(map(str, values))

  def printed(self, value: Any) -> Any:
    """What a template prints, piece by piece."""
    self._printed += _weight(value)
    if self._printed > _LARGEST:
      raise SecurityError(f"it prints more than {_LARGEST} characters")
    return value

  def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
    """Arithmetic whose result may be far larger than what goes in."""
    sizes = [abs(x).bit_length() if isinstance(x, int) else 0 for x in (left, right)]
    if operator == "*":
      for many, thing in ((left, right), (right, left)):
        if isinstance(many, int) and not isinstance(thing, int | float):
          many = max(many, 0)
          self.weighed(" " * min(many * max(1, _weight(thing)), _LARGEST + 1))
    too_large = {"*": sum(sizes) > 4096, "**": sizes[0] * abs(right) > 4096 if sizes[1] else False}
    if too_large.get(operator):
      raise SecurityError("it computes a number of more than a thousand digits")
    if operator == "%" and isinstance(left, str):
      _narrow([left, right])
    return self.weighed(super().call_binop(context, operator, left, right))

  def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
    """A call, of which neither a width nor the result may be too large."""
    bound = getattr(__obj, "__wrapped__", __obj)  # jinja2 wraps str.format
    receiver = getattr(bound, "__self__", None)
    if isinstance(receiver, str):
      _narrow([receiver if bound.__name__.startswith("format") else "", *args, *kwargs.values()])
      _repetition(receiver, bound.__name__, args)
    result = super().call(__context, __obj, *args, **kwargs)
    return __self.weighed(result) if isinstance(result, str | list | tuple | dict) else result

  def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
    """An attribute that the sandbox hides: not undefined, but the end."""
    raise SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}")

  def _weighing(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter, of which neither a width nor arguments nor the result may be too large."""

    @functools.wraps(function)
    def weighing(*args: Any, **kwargs: Any) -> Any:
      given = [x for x in (*args, *kwargs.values()) if _is_data(x)]
      _narrow(given[1:])
      for x in given:
        self.weighed(x)
      if given and isinstance(given[0], str):
        _repetition(given[0], function.__name__.removeprefix("do_"), given[1:])
      return self.weighed(function(*args, **kwargs))

    return weighing


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
  """The code of a template, which takes far longer to make than to run."""
  return Sandbox().guarded_code(source)


class _Names(Namespace):
  """jinja2's namespace, whose names do not begin with an underscore."""

  def __init__(*args: Any, **kwargs: Any) -> None:
    for name in dict(*args[1:], **kwargs):
      _plain_name(name)
    Namespace.__init__(*args, **kwargs)


class _Generation(Extension):
  """`{% generation %}`, by which training marks an assistant's text; here it is only text."""

  tags = {"generation"}

  def parse(self, parser: Parser) -> list[nodes.Node]:
    """The statements inside."""
    next(parser.stream)
    return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _expression(node: nodes.Node) -> nodes.Expr:
  """The text between a template's tags as a constant; an expression as it is."""
  if isinstance(node, nodes.TemplateData):
    return nodes.Const(node.data, lineno=node.lineno)
  assert isinstance(node, nodes.Expr)
  return node


def _plain_name(name: Any) -> None:
  if not isinstance(name, str) or name.startswith("_"):
    raise SecurityError(f"it sets the name {name!r}")


def _refuse(message: str) -> None:
  """`raise_exception` of the templates."""
  raise TemplateError(str(message))


def _to_json(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  """transformers' filter of this name: unlike jinja2's it escapes nothing for HTML."""
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                    sort_keys=sort_keys)  # fmt: skip


def _is_data(value: Any) -> bool:
  return isinstance(value, str | int | float | list | tuple | dict)


def _weight(value: Any, most: int = _LARGEST + 1) -> int:
  """Characters of a value, roughly; counting stops at `most`, for one list may hold another twice.

  The walk is iterative, so that depth ends nothing.
  """
  total, todo = 0, [value]
  container = 20  # more than its brackets, so that a walk over many ends soon
  while todo and total < most:
    item = todo.pop()
    if isinstance(item, str | bytes):
      total += len(item)
    elif isinstance(item, Mapping):
      todo += [*item.keys(), *item.values()]
      total += container
    elif isinstance(item, list | tuple | set):
      todo += item
      total += container
    else:
      total += 1
  return total


def _narrow(values: list[Any]) -> None:
  """Refuses numbers, also in format strings, that ask for a very wide or long text."""
  for value in values:
    if isinstance(value, list | tuple):
      _narrow(list(value))
    elif isinstance(value, int) and abs(value) > _WIDEST:
      raise SecurityError(f"it asks for a width or a count of {value}")
    elif isinstance(value, str) and ("%" in value or "{" in value):
      digits = "".join(c if c.isdigit() else " " for c in value).split()
      _narrow([10 ** (len(number) - 1) for number in digits if len(number) > 5])


def _repetition(text: str, name: str, args: Any) -> None:
  """Refuses a replace or a join that would repeat a long text very often."""
  size = 0
  if name == "replace" and len(args) >= 2 and isinstance(args[1], str):
    size = text.count(str(args[0])) * len(args[1])
  elif name == "join" and args and hasattr(args[0], "__len__"):
    size = len(text) * len(args[0])
  if size > _LARGEST:
    raise SecurityError(f"it builds more than {_LARGEST} characters")
