"""The programs; `python -m experiments.NAME` runs one.

Started so, a program first gives its process a setting that a CPU wants and that can only be made
before it begins, GLIBC_TUNABLES, unless the user has set it: memory in huge pages, from heaps that
keep what is freed. XLA allocates a step's temporaries anew each time, and huge pages cleared anew
cost a large step up to its own time again. One heap keeps any size, the main thread's, and so
`program.run_in_main_thread` has the steps there. To have all threads share it would let them wait
for one another.
"""

import os
import sys

_HEAPS = ":".join(
  f"glibc.malloc.{setting}" for setting in ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}")
)

if sys.argv[0] == "-m" and sys.platform == "linux":  # true only while -m looks for the program
  if "GLIBC_TUNABLES" not in os.environ:
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": _HEAPS})
