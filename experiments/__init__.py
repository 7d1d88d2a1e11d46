"""The programs; `python -m experiments.NAME` runs one.

Started so, a program first gives its process two settings that a CPU wants and that can only be
made before it begins. They change no result but rounding, and whoever sets the variables already
is left alone.

  GLIBC_TUNABLES  Memory in huge pages, from one heap that keeps what is freed. XLA allocates a
                  step's temporaries anew each time; the kernel spends a fifth of a small step on
                  clearing them, and up to half of a large one where other programs run.
  XLA_FLAGS       Matrix products by Eigen rather than YNNPACK, which in jaxlib 0.10 is slower at
                  batched ones (experts by a fifth, attention by a third) and far slower where
                  other programs run. Sums stay with YNNPACK, ten times as fast at long ones.
"""

import importlib.metadata
import os
import sys

_ONE_HEAP = ":".join(
  f"glibc.malloc.{setting}"
  for setting in ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", "arena_max=1")
)
_EIGEN = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"


def process_settings(environment: dict[str, str], jaxlib: str) -> dict[str, str]:
  """Variables to add to `environment`; XLA ends a process that names a flag it does not know, so
  that this one is given to the versions of jaxlib that are known to have it."""
  added = {}
  if "GLIBC_TUNABLES" not in environment:
    added["GLIBC_TUNABLES"] = _ONE_HEAP
  if jaxlib.startswith("0.10.") and "ynn_fusion_type" not in environment.get("XLA_FLAGS", ""):
    added["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {_EIGEN}".strip()
  return added


if sys.argv[0] == "-m" and sys.platform == "linux":  # true only while -m looks for the program
  if _added := process_settings(dict(os.environ), importlib.metadata.version("jaxlib")):
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **_added})
