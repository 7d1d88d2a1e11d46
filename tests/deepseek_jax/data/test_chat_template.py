"""Chat templates: where they are read from, and what hostile ones are told."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.chat_template import DEEPSEEK, ChatTemplate, read_template

pytest.importorskip("jinja2", reason="chat templates need the extra hf")

HELLO = [{"role": "user", "content": "hello"}]


def render(source, messages=HELLO, **special):
  return ChatTemplate(source, special, "x/chat_template.jinja").render(messages)


def test_the_built_in_template_is_deepseeks():
  messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "And 3?"},
  ]
  assert render(DEEPSEEK, messages) == (
    "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>2 + 2?"
    "<｜Assistant｜>4<｜end▁of▁sentence｜><｜User｜>And 3?<｜Assistant｜>"
  )


def test_names_blocks_and_filters_of_published_templates():
  source = """{%- if tools is none %}no tools{% endif %}
  {% for m in messages %}
    {% generation %}
{{ bos_token ~ m['content'] | trim }}{% endgeneration %}
    {% if loop.last %}{% break %}{% endif %}
  {% endfor %}
{{ {'é': [1, 2]} | tojson }} {{ pad_token }}{{ strftime_now('%Y') | length }}
{%- set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n * 'ab' }}{{ '%02d' % 7 }}"""
  expected = '  no tools<s>hello{"é": [1, 2]} 4abab07'.strip()
  assert "".join(render(source, bos_token="<s>").split("\n")).strip() == expected


HOSTILE = {
  "{{ ''.__class__ }}": "'__class__' of a str",
  "{{ ''.__class__.__mro__[1].__subclasses__() }}": "'__class__' of a str",
  "{{ 'x' | attr('__class__') }}": "'__class__'",
  "{{ dict.__globals__ }}": "'__globals__'",
  "{% set n = namespace() %}{% set n.__class__ = 1 %}": "the name '__class__'",
  "{{ namespace(_x=1) }}": "the name '_x'",
  "{{ messages.append(1) }}": "'append' of a list",
  "{{ launch() }}": "'launch' is undefined",
  "{{ messages.no.such }}": "has no attribute 'no'",
  "{% include '/etc/passwd' %}": "no loader",
  "{% if": "unexpected 'end of template'",
  "{{ raise_exception('roles must alternate') }}": "roles must alternate",
  "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}": "it loops",
  "{% for i in range(10 ** 9) %}{% endfor %}": "Range too big",
  "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}": (
    "it loops"
  ),
  "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}": "recursion",
  "{{ 'a' * 10 ** 10 }}": "it builds",
  "{{ [1] * 10 ** 10 }}": "it builds",
  "{{ 'a' | center(10 ** 9) }}": "a width",
  "{{ 'a'.ljust(10 ** 9) }}": "a width",
  "{{ '%999999999d' % 1 }}": "a width",
  "{{ '%*d' % (10 ** 9, 1) }}": "a width",
  "{{ '{:999999999}'.format(1) }}": "a width",
  "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}": "it builds",
  "{% for i in range(99999) %}" + "a" * 999 + "{% endfor %}": "it prints",
  "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}": (
    "it builds"
  ),
  "{% set n = namespace(s=[]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
  "{{ n.s }}": "it prints",
  "{% set n = namespace(s=9) %}{% for i in range(60) %}{% set n.s = n.s * n.s %}{% endfor %}": (
    "thousand digits"
  ),
  "{{ 9 ** 99999 }}": "thousand digits",
}


@pytest.mark.parametrize("source", HOSTILE, ids=lambda s: s[:40])
def test_a_hostile_template_ends_in_one_sentence(source):
  with pytest.raises(ConfigError) as caught:
    render(source)
  told = str(caught.value)
  assert HOSTILE[source] in told, told
  assert told.startswith("x/chat_template.jinja cannot be used") and "\n" not in told


def test_a_template_is_read_from_its_own_file_first(tmp_path):
  config = {"chat_template": "from config", "bos_token": {"content": "<s>"}}
  assert read_template({}, tmp_path) is None
  assert read_template(config, tmp_path).render(HELLO) == "from config"
  (tmp_path / "chat_template.jinja").write_text("{{ bos_token }} from file")
  assert read_template(config, tmp_path).render(HELLO) == "<s> from file"


@pytest.mark.parametrize("source", ["", "{# nothing #}", "{% if false %}x{% endif %}"])
def test_a_template_that_says_nothing_is_named(source):
  with pytest.raises(ConfigError, match="^x/chat_template.jinja makes no text"):
    render(source)


def test_of_named_templates_the_default_is_taken(tmp_path):
  named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
  assert read_template({"chat_template": named}, tmp_path).render(HELLO) == "d"
  assert read_template({"chat_template": named[:1]}, tmp_path).render(HELLO) == "t"
  with pytest.raises(ConfigError, match="named default"):
    read_template({"chat_template": [*named[:1], {"name": "rag", "template": "r"}]}, tmp_path)
  with pytest.raises(ConfigError, match="neither a text nor a list"):
    read_template({"chat_template": {"a": json.dumps(1)}}, tmp_path)
