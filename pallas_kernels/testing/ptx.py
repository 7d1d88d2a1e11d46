"""What a kernel's PTX shows: its tensor-core instructions, and where their sums are promoted."""

import re

_WGMMA = re.compile(r"wgmma\.mma_async\.sync\.aligned\.(\S+) \{([^}]*)\}")
_MULTIPLIES = re.compile(r"(?:fma\.rn|mul)(?:\.ftz)?\.f32\s+[^,]+,\s*(%r\d+),\s*(%r\d+)")


def wgmma_kinds(ptx: str) -> set[str]:
  """The kinds of its warpgroup matmuls, such as m64n128k32.f32.e4m3.e4m3."""
  return {match[1] for match in _WGMMA.finditer(ptx)}


def longest_accumulation(ptx: str) -> int:
  """Elements of the contraction that a tensor-core sum takes before its thread reads it.

  Counted in program order between two waits for all warpgroup matmuls; a loop whose sum stays in
  the tensor core over iterations shows in `promoted`, not here.
  """
  longest = run = 0
  for line in ptx.splitlines():
    if match := _WGMMA.search(line):
      run += int(re.findall(r"k(\d+)", match[1])[0])
      longest = max(longest, run)
    elif "wgmma.wait_group.sync.aligned 0" in line:
      run = 0
  return longest


def promoted(ptx: str) -> int:
  """How many of a thread's wgmma accumulators are read by a float32 multiplication.

  With promotion that is every one of them: 64 in a tile of 64x128 over 128 threads.
  """
  accumulators = {r.strip() for match in _WGMMA.finditer(ptx) for r in match[2].split(",")}
  factors = {register for match in _MULTIPLIES.finditer(ptx) for register in match.groups()}
  return len(accumulators & factors)
