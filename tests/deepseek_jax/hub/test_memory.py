"""Importing two gigabytes of FP8 takes little memory beside the parameters themselves."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from deepseek_jax.config import MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.hub import blocks, checksums, config_json, names
from deepseek_jax.hub.safetensors import abstract_weights, load_pretrained
from deepseek_jax.hub.tensor_file import Planned, in_file_order, write_file
from deepseek_jax.ops.fp8 import E4M3

CONFIG = ModelConfig(
  vocab=32_768,
  d_model=2048,
  layers=19,
  heads=8,
  dense_ff=4096,
  attention=MLAConfig(kv_latent=512, nope_dim=128, rope_dim=64, v_dim=128, q_latent=768),
  moe=MoEConfig(experts=16, top_k=4, expert_ff=1024, dense_layers=1, groups=4, top_groups=2),
  mtp_depth=0,
)
SHARDS = 8
ALLOWED = 800e6  # bytes beside the parameters and twice the largest tensor


def write_random(folder: Path) -> int:
  """The checkpoint, a shard at a time; returns the bytes of its largest tensor."""
  rng = np.random.default_rng(0)
  shapes = {path: leaf.shape for path, leaf in names.flatten(abstract_weights(CONFIG)).items()}
  planned = []
  for tensor in names.tensors(CONFIG):
    kind = np.dtype(np.float32 if tensor.float32 else ml_dtypes.bfloat16)
    planned.append(Planned(tensor.name, E4M3 if tensor.blocks else kind, tensor.shape(shapes)))
    if tensor.blocks:
      shape = blocks.scale_shape(tensor, shapes)
      planned.append(Planned(tensor.name + blocks.SUFFIX, np.dtype(np.float32), shape))

  def draw(tensor: Planned) -> np.ndarray:
    if tensor.dtype == E4M3:
      return rng.integers(0, 0x7F, tensor.shape, np.uint8).view(E4M3)
    return rng.random(tensor.shape, np.float32).astype(tensor.dtype)

  index, sums = {}, {}
  for number in range(SHARDS):
    file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
    held = in_file_order(planned[number::SHARDS])
    sums[file] = write_file(folder / file, held, map(draw, held))
    index |= {tensor.name: file for tensor in held}
  (folder / "config.json").write_text(json.dumps(config_json.to_json(CONFIG)))
  text = json.dumps({"metadata": {}, "weight_map": index})
  (folder / "model.safetensors.index.json").write_text(text)
  checksums.write(folder, sums)
  assert sum(tensor.nbytes for tensor in planned) > 2e9
  return max(tensor.nbytes for tensor in planned)


def anonymous() -> int:
  """Bytes of this process that no file backs."""
  status = Path("/proc/self/status").read_text()
  return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


def measure(folder: str) -> None:
  """Loads the directory and prints the parameters' bytes and the peak of `anonymous`."""
  peak, done = [anonymous()], threading.Event()

  def watch() -> None:
    while not done.wait(0.005):
      peak.append(max(peak.pop(), anonymous()))

  thread = threading.Thread(target=watch)
  thread.start()
  _, weights, _ = load_pretrained(folder)
  jax.block_until_ready(weights)
  done.set()
  thread.join()
  print(json.dumps({"placed": sum(x.nbytes for x in jax.tree.leaves(weights)), "peak": peak[0]}))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_importing_two_gigabytes_of_fp8(tmp_path):
  largest = write_random(tmp_path)
  done = subprocess.run(
    [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  print(f"{(found['peak'] - found['placed']) / 1e6:.0f} MB beside the parameters")  # with -s
  assert found["placed"] > 2e9
  assert found["peak"] - found["placed"] <= ALLOWED + 2 * largest, found


if __name__ == "__main__":
  measure(sys.argv[1])
