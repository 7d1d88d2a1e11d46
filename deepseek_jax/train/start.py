"""Where a job's model comes from: a preset with changes, a workdir, a Hugging Face directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from deepseek_jax.by_name import model_path
from deepseek_jax.config import ConfigError, ModelConfig, from_dict, require, to_dict
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer, same_tokens
from deepseek_jax.hosts import arrays
from deepseek_jax.hub import safetensors
from deepseek_jax.hub.gguf import is_gguf, load_gguf, read_gguf_architecture
from deepseek_jax.hub.gguf_header import read_header
from deepseek_jax.hub.gguf_tokenizer import gguf_tokenizer
from deepseek_jax.hub.safetensors import is_pretrained, load_pretrained
from deepseek_jax.model.adapters import adapt, merged
from deepseek_jax.model.reward import has_head, with_head, without_head
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.ops.fp8 import FP8Blocks, dequantize
from deepseek_jax.presets import preset
from deepseek_jax.seeds import random_key
from deepseek_jax.sharding import MeshConfig, init_sharded, state_shardings
from deepseek_jax.train.base import base_model, check_base, lora_of
from deepseek_jax.train.checkpoint import Checkpointer, load_weights
from deepseek_jax.train.loop import Position, begin
from deepseek_jax.train.metrics import MetricsLog
from deepseek_jax.train.state import TrainState, abstract_state, init_state
from deepseek_jax.train.workdir import read_config
from deepseek_jax.types import Weights


def check_batch(batch: int, length: int, model: ModelConfig, mesh: MeshConfig) -> None:
  """ConfigError unless rows of `length` tokens fit the model, and `batch` of them the mesh."""
  require(
    length <= model.max_context,
    f"data.length is {length}; it must not exceed model.max_context, {model.max_context}.",
  )
  mesh.check_rows("data.batch", batch)


def resolve_model(values: Mapping[str, Any], init: str = "") -> ModelConfig:
  """The architecture of `config.model`: a preset's name and the fields that differ from it.

  Without a preset it is that of the directory `init`; with neither, all fields must be given.

  Raises:
    ConfigError: a field is unknown or does not fit the others.
  """
  changes = dict(values or {})
  require(
    bool(changes or init),
    "the config names no model; give --config.init=MODEL, or config.model its fields or a preset.",
  )
  name = changes.pop("preset", "")
  if name:
    base = to_dict(preset(name))
  elif init:
    base = to_dict(read_architecture(init))
  else:
    base = {}
  return from_dict(ModelConfig, _merge(base, changes), "config.model")


def read_architecture(directory: str | Path) -> ModelConfig:
  """The architecture of a workdir, a Hugging Face directory, a GGUF file or a Hub's name."""
  directory = model_path(directory)
  if is_gguf(directory):
    return read_gguf_architecture(directory)
  if is_pretrained(directory):
    return safetensors.read_architecture(directory)
  _check_directory(directory)
  config = read_config(directory)
  values = config.get("model")
  if "student" in config:
    raise ConfigError(
      f"{directory} holds the stages of the R1 recipe; name one of its exports, like "
      f"{directory}/export/r1, or write another stage with experiments.export."
    )
  if values is None:
    raise ConfigError(f"{directory} is no workdir of a training job; its config has no model.")
  return from_dict(ModelConfig, values, f"{directory}: model")


def _check_directory(path: Path) -> None:
  """ConfigError unless a path that is no GGUF file is a directory."""
  kinds = "a workdir, a Hugging Face directory or a GGUF file"
  require(path.exists(), f"{path} does not exist; name {kinds}.")
  whole = is_pretrained(path.parent)
  require(
    path.is_dir(),
    f"{path} is a file, and no GGUF file; name "
    + (f"the directory it lies in, {path.parent}." if whole else f"{kinds}."),
  )


def resolve_tokenizer(name: str | None, init: str) -> str:
  """The name of a job's tokenizer: `word`, `byte` or where it lies, for `open_tokenizer`.

  A job that starts from a model has that model's; one that starts from nothing `word` unless it
  names another.

  Raises:
    ConfigError: `name` is another tokenizer than that of `init`, or there is none.
  """
  if not init:
    return "word" if name is None else name
  if name and name == _lies(init):
    return name  # as a job's values say that were resolved before; no file need be read again
  path = model_path(init)
  if not is_gguf(path):
    _check_directory(path)
  place = tokenizer_place(init)
  require(bool(place or name), f"config.init {init} brings no tokenizer; name one in the config.")
  if not place or not name:
    return place or name or ""
  require(
    same_tokens(open_tokenizer(name), open_tokenizer(place)),
    f"the tokenizer {name!r} is not that of config.init {init}, whose weights know other ids; "
    "leave it out.",
  )
  return name


def open_tokenizer(name: str) -> Tokenizer:
  """As `load_tokenizer`, of a GGUF file too; ConfigError if it brings none."""
  if name in ("word", "byte"):
    return load_tokenizer(name)
  path = model_path(name)
  if not is_gguf(path):
    return load_tokenizer(path)
  tokenizer = gguf_tokenizer(read_header(path))
  require(tokenizer is not None, f"{name} brings no tokenizer; name another.")
  assert tokenizer is not None
  return tokenizer


def tokenizer_place(directory: str) -> str:
  """Where the tokenizer of a model lies, or `word` or `byte` where it is one of those; else ""."""
  path, place = model_path(directory), _lies(directory)
  if is_gguf(path):
    return place if gguf_tokenizer(read_header(path)) is not None else ""
  if not place:
    return ""
  found = load_tokenizer(model_path(place))
  known = [name for name in ("word", "byte") if same_tokens(found, load_tokenizer(name))]
  return known[0] if known else place


def _lies(directory: str) -> str:
  """The place of a model's own tokenizer, whatever it is and without reading it; else ""."""
  path = model_path(directory)
  if is_gguf(path):
    return directory
  whole = is_pretrained(path)
  folder = path if whole else path / "tokenizer"
  if not (folder / "tokenizer.json").is_file():
    return ""
  return directory if whole else str(folder)


def load_start(
  directory: str | Path, mesh: Mesh | None = None, reward: bool = False
) -> tuple[ModelConfig, Weights, Tokenizer | None]:
  """As `load_stored`, with FP8 weights dequantised: what training can begin from."""
  config, weights, tokenizer = load_stored(directory, mesh, reward=reward)
  return config, dequantize(weights), tokenizer


def load_stored(
  directory: str | Path, mesh: Mesh | None = None, dtype: str = "float32", reward: bool = False
) -> tuple[ModelConfig, Weights, Tokenizer | None]:
  """Architecture, weights and tokenizer of a workdir, a HF directory or a GGUF file.

  FP8 stays FP8; with dtype "stored" a Hugging Face directory's bfloat16 stays bfloat16. Weights of
  a workdir come to the host, others to `mesh` (None: the default device). They may have a reward
  head (model/reward.py) only with `reward`.

  Raises:
    ConfigError: it is none of these, holds no checkpoint yet, or is a reward model's workdir.
  """
  path = model_path(directory)
  if is_gguf(path):
    return load_gguf(path, mesh)
  _check_directory(path)
  if is_pretrained(path):
    return load_pretrained(path, mesh, dtype)
  config = read_architecture(path)
  folder = path / "tokenizer"
  tokenizer = load_tokenizer(folder) if folder.is_dir() else None
  weights = _with_base(path, load_weights(path / "checkpoints"), mesh, dtype)
  require(
    reward or not has_head(weights),
    f"{path} holds a reward model, which judges texts and writes none; open it with "
    "deepseek_jax.load_reward_model, or name a language model.",
  )
  require_fit(config, without_head(weights), path)
  return config, weights, tokenizer


def _with_base(path: Path, found: Weights, mesh: Mesh | None, dtype: str) -> Weights:
  """The weights of a workdir, where its run trained adapters merged with their base."""
  lora = lora_of(path)
  if lora is None:
    return found
  model = base_model(path)
  try:
    _, base, _ = load_stored(model, mesh, dtype)
  except ConfigError as error:
    raise ConfigError(
      f"{path} holds adapters of {model}, which cannot be read ({str(error).rstrip('.')}); bring "
      f"it back, or say in {path}/base.json where it lies."
    ) from error
  check_base(path, base)
  adapted = adapt(base, found.params, lora.scale)
  return jax.jit(merged)(adapted)


def require_fit(config: ModelConfig, weights: Weights, path: Path) -> None:
  """ConfigError where a workdir's weights are not those of its config.json."""
  found = jax.tree.map(lambda x: x.shape, weights, is_leaf=lambda x: isinstance(x, FP8Blocks))
  require(
    _shapes(config) == found,
    f"{path}: the checkpoint holds other weights than the model in config.json has; put back the "
    "config.json that they were trained with.",
  )


def begin_training(
  model: Transformer,
  tx: optax.GradientTransformation,
  checkpointer: Checkpointer,
  log: MetricsLog,
  seed: int = 0,
  init: str = "",
  weights: Weights | None = None,
  ema: bool = False,
  reference: bool = False,
  reward: bool = False,
) -> tuple[TrainState, Position]:
  """The state a job goes on from: its own newest checkpoint, or `first_state`."""
  key = random_key(seed)

  def fresh() -> TrainState:
    return _started(init_weights(model, key), tx, ema, reference, reward)

  return begin(
    abstract_state(fresh, model.mesh),
    lambda: first_state(model, tx, seed, init, weights, ema, reference, reward),
    checkpointer,
    log,
  )


def first_state(
  model: Transformer,
  tx: optax.GradientTransformation,
  seed: int = 0,
  init: str = "",
  weights: Weights | None = None,
  ema: bool = False,
  reference: bool = False,
  reward: bool = False,
) -> TrainState:
  """The state a job begins with: `weights` (which are copied), those in `init`, or random ones.

  The random ones are those of `seed`; in every case the optimiser is fresh, and all of it lies on
  the model's mesh. With `reward` they get a reward head, unless they bring one.
  """
  if weights is None and not init:
    return init_sharded(
      lambda key: _started(init_weights(model, key), tx, ema, reference, reward),
      model.mesh,
      random_key(seed),
    )
  given = weights if weights is not None else load_matching(model.config, init, model.mesh, reward)
  if model.mesh is not None:
    given = arrays.place(given, state_shardings(model.mesh, given))
  return init_sharded(lambda w: _started(w, tx, ema, reference, reward), model.mesh, given)


def _started(
  weights: Weights, tx: optax.GradientTransformation, ema: bool, reference: bool, reward: bool
) -> TrainState:
  """The state before the first step, with a reward head where there is to be one."""
  return init_state(with_head(weights) if reward else weights, tx, ema, reference)


def load_matching(
  config: ModelConfig, init: str, mesh: Mesh | None, reward: bool = False, dtype: str = "float32"
) -> Weights:
  """The weights in `init`, if they are of the architecture `config`; of dtype or as stored."""
  same = _shapes(read_architecture(init)) == _shapes(config)
  require(same, f"config.init {init} holds another architecture than config.model.")
  if dtype == "stored":
    return load_stored(init, mesh, dtype)[1]
  return load_start(init, mesh, reward)[1]


def _shapes(config: ModelConfig) -> Any:
  """The weights of an architecture, each array as its shape."""
  abstract = jax.eval_shape(lambda: init_weights(Transformer(config), jax.random.key(0)))
  return jax.tree.map(lambda x: x.shape, abstract)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
  """`base` with the nested `changes` put over it."""
  merged = dict(base)
  for name, value in changes.items():
    inner = merged.get(name)
    if isinstance(value, Mapping) and isinstance(inner, Mapping):
      value = _merge(dict(inner), value)
    merged[name] = value
  return merged
