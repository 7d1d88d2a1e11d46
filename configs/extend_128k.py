"""DeepSeek-V3's second context extension, from 32K to 128K (2412.19437, section 4.3).

Reproduces: 1000 steps of 480 sequences of 131,072 tokens, all else as in configs/extend_32k.py.
Hardware: V3's extension took 119K H800 GPU-hours, both phases together; the mesh is for 2048.
Command: python -m experiments.pretrain --config=configs/extend_128k.py --workdir=W128
         --config.init=W32 --config.data.path=TEXT --config.data.tokenizer=DIR
         where W32 is the workdir of configs/extend_32k.py
Result: not run.
"""

from ml_collections import ConfigDict

from configs import extend_32k


def get_config() -> ConfigDict:
  """The second phase."""
  return extend_32k.get_config(131_072, sequences=480, rows=32, mesh=(1, 32, 64))
