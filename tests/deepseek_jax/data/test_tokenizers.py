"""Tokenizers: round trips, files that Hugging Face reads, and what bad ones are told."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.byte_tokenizer import ByteTokenizer
from deepseek_jax.data.conversation import text_prompt
from deepseek_jax.data.document import Document, make_sample
from deepseek_jax.data.problems import ProblemSource
from deepseek_jax.data.special_tokens import CONTROL, EOS, TAGS
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer
from deepseek_jax.data.word_tokenizer import WordTokenizer
from deepseek_jax.tasks.languages import WORDS
from deepseek_jax.tasks.mixture import mini_mixture

WORD, BYTE = WordTokenizer(), ByteTokenizer()
READABLE = [word for word in WORD.words if word not in CONTROL]


@pytest.mark.parametrize("tokenizer", [WORD, BYTE], ids=["word", "byte"])
def test_special_tokens_are_one_token_each_and_distinct(tokenizer):
  assert isinstance(tokenizer, Tokenizer)
  ids = [tokenizer.encode(token) for token in (*CONTROL, *TAGS)]
  assert all(len(i) == 1 for i in ids) and len({i[0] for i in ids}) == len(ids)
  assert tokenizer.encode(EOS) == [tokenizer.eos_id]
  assert tokenizer.pad_id != tokenizer.eos_id
  assert tokenizer.decode([tokenizer.pad_id, tokenizer.eos_id]) == ""
  assert tokenizer.id_of("<think>") == tokenizer.encode("<think>")[0]
  assert tokenizer.id_of("no such token") is None


@given(st.lists(st.sampled_from(READABLE)))
def test_words_round_trip(words):
  text = " ".join(words)
  ids = WORD.encode(text)
  assert len(ids) == len(words) and WORD.decode(ids) == text
  assert all(0 <= i < WORD.vocab_size for i in ids)


def test_the_words_are_the_integers_and_both_languages():
  assert {str(n) for n in range(-199, 200)} <= set(WORD.words)
  assert all(word in WORD.words for table in WORDS.values() for word in table.values())
  assert len(set(WORD.words)) == WORD.vocab_size == 429


def test_every_document_of_the_mini_tasks_can_be_read():
  source = ProblemSource(mini_mixture(), seed=5)
  for i in range(300):
    text = source[i].prompt + source[i].text
    assert WORD.decode(WORD.encode(text)) == BYTE.decode(BYTE.encode(text)) == text


@pytest.mark.parametrize("text, named", [("3 200 4", "'200'"), ("make it so", "'it'")])
def test_an_unknown_word_is_named(text, named):
  with pytest.raises(ConfigError, match=named):
    WORD.encode(text)


@given(st.text())
def test_any_text_round_trips_through_bytes(text):
  text = text.encode("utf-8", errors="replace").decode()
  for token in CONTROL:  # spelled out they are tokens that decoding leaves out
    text = text.replace(token, "")
  assume(not any(token in text for token in CONTROL))
  ids = BYTE.encode(text)
  assert BYTE.decode(ids) == text
  assert all(0 <= i < BYTE.vocab_size for i in ids)


@given(st.lists(st.integers(-5, 600)))
def test_any_ids_decode_to_some_text(ids):
  assert isinstance(BYTE.decode(ids), str) and isinstance(WORD.decode(ids), str)


@pytest.mark.parametrize("name", ["word", "byte"])
def test_saved_tokenizers_load_as_themselves(name, tmp_path):
  tokenizer = load_tokenizer(name)
  tokenizer.save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert type(again) is type(tokenizer) and again.vocab_size == tokenizer.vocab_size
  text = "sum 3 -7 ? <think> 等等 </think>"
  assert again.encode(text) == tokenizer.encode(text)
  assert not list(tmp_path.glob("*.tmp"))


def test_a_word_tokenizer_keeps_a_vocabulary_of_its_own(tmp_path):
  small = WordTokenizer((*CONTROL, *TAGS, "b", "a"))
  small.save(tmp_path)
  assert load_tokenizer(tmp_path).encode("a b") == small.encode("a b") == [10, 9]


TEXTS = ["make -3 from 3 1 2 7 ? <think> 3 -1 2 vs -3 high 等等 </think>", "sum 4 ? 4 " + EOS]


@pytest.mark.parametrize("name", ["word", "byte"])
def test_saved_tokenizers_are_read_alike_by_hugging_face(name, tmp_path):
  pytest.importorskip("tokenizers")
  from deepseek_jax.data.hf_tokenizer import HFTokenizer

  ours = load_tokenizer(name)
  ours.save(tmp_path)
  theirs = HFTokenizer.load(tmp_path)
  assert (theirs.vocab_size, theirs.eos_id, theirs.pad_id, theirs.bos_id) == (
    ours.vocab_size,
    ours.eos_id,
    ours.pad_id,
    None,
  )
  for text in [*TEXTS, *(["\n\t naïve 🙂 \x00"] if name == "byte" else [])]:
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))


@pytest.mark.parametrize("name", ["word", "byte"])
def test_saved_tokenizers_are_loaded_by_transformers(name, tmp_path):
  transformers = pytest.importorskip("transformers")
  ours = load_tokenizer(name)
  ours.save(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert theirs.eos_token_id == ours.eos_id and len(theirs) == ours.vocab_size
  for text in TEXTS:
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text)
    assert theirs.decode(ids, skip_special_tokens=True).strip() == ours.decode(ids).strip()


def hf_directory(path, **config):
  tokenizers = pytest.importorskip("tokenizers")
  model = tokenizers.models.WordLevel({"<bos>": 0, "<end>": 1, "hello": 2, "<think>": 9}, "<end>")
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(["<bos>", "<end>"])
  tokenizer.save(str(path / "tokenizer.json"))
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  return path


def test_hugging_face_files_bring_their_special_tokens(tmp_path):
  hf_directory(tmp_path, eos_token={"content": "<end>"}, bos_token="<bos>", add_bos_token=True)
  tokenizer = load_tokenizer(tmp_path)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 1)
  assert tokenizer.vocab_size == 10  # the highest id counts, gaps included
  assert text_prompt(tokenizer, "hello").tokens == [0, 2]
  assert make_sample(tokenizer, Document("<think>", "hello")).tokens == [0, 2, 9, 1]
  tokenizer.save(tmp_path / "copy")
  assert load_tokenizer(tmp_path / "copy").encode("hello") == [2]


@pytest.mark.parametrize("single", ["<bos> <end> $A", "<end> $A <bos>", "$A <end>", "$A"])
@pytest.mark.parametrize("config", [{}, {"bos_token": "<bos>"}, {"add_bos_token": False}])
def test_a_text_begins_as_tokenizer_json_says(single, config, tmp_path):
  transformers = pytest.importorskip("transformers")
  path = hf_directory(tmp_path, eos_token="<end>", **config)
  put_around(path, single)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)("hello").input_ids
  tokenizer = load_tokenizer(path)
  begin = theirs[: theirs.index(2)]
  assert text_prompt(tokenizer, "hello").tokens == [*begin, 2] and list(tokenizer.begin) == begin
  learnt = [*begin, 2, tokenizer.eos_id]
  assert make_sample(tokenizer, Document("hello")).tokens == learnt
  if begin == [0, 1]:
    assert make_sample(tokenizer, Document("<bos> <end> hello")).tokens == learnt
    assert text_prompt(tokenizer, "<bos> <end> hello").tokens == learnt[:-1]


@pytest.mark.parametrize(
  "single, adds, begin",
  [("$A", True, [0]), ("<bos> <end> $A", True, [0, 1]), ("<bos> <end> $A", False, [1]),
   ("<bos> $A", False, [])],
)  # fmt: skip
def test_whether_a_text_begins_with_bos_is_the_configurations_word(single, adds, begin, tmp_path):
  path = hf_directory(tmp_path, eos_token="<end>", bos_token="<bos>", add_bos_token=adds)
  put_around(path, single)
  assert text_prompt(load_tokenizer(path), "hello").tokens == [*begin, 2]


def put_around(path, single):
  """Has tokenizer.json put special tokens around a text."""
  tokenizers = pytest.importorskip("tokenizers")
  inner = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
  inner.post_processor = tokenizers.processors.TemplateProcessing(
    single=single, special_tokens=[("<bos>", 0), ("<end>", 1)]
  )
  inner.save(str(path / "tokenizer.json"))


def test_bad_tokenizers_are_named(tmp_path, monkeypatch):
  with pytest.raises(ConfigError, match="nowhere"):
    load_tokenizer(tmp_path / "nowhere")
  with pytest.raises(ConfigError, match="eos_token"):
    load_tokenizer(hf_directory(tmp_path))
  (tmp_path / "tokenizer_config.json").write_text('{"deepseek_jax_kind": "word"}')
  (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 7}}}')
  with pytest.raises(ConfigError, match="word tokenizer"):
    load_tokenizer(tmp_path)
  (tmp_path / "tokenizer_config.json").write_text("{}")
  with pytest.raises(ConfigError, match=r"tokenizer\.json"):
    load_tokenizer(tmp_path)
  monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
  with pytest.raises(ConfigError, match="pip install"):
    load_tokenizer(tmp_path)
