"""Programs that want a reward without the work, or harm, each beside what it is held against.

Most would pass if they reached what they are after: they do the work behind it. Run as a program
this judges all of them and prints the outcomes, so that another user can be the one who judges.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from deepseek_jax.tasks.code.cases import Assertions, Outputs, Values
from deepseek_jax.tasks.code.judge import judge
from deepseek_jax.tasks.code.running import Limits
from deepseek_jax.tasks.code.sandbox import sandbox

LIMITS = Limits(cpu=1, wall=8.0, memory=2**28, disk=2**22, file=2**21, output=2**20)
ROOT = Path(__file__).parents[1]

SUMS = Outputs((("3 4\n", "7\nodd\n"), ("20 22\n", "42\neven\n")))
WORK = (
  "total = sum(map(int, input().split()))\nprint(total)\nprint('odd' if total % 2 else 'even')\n"
)
_PROMPT = 'def after(n: int) -> int:\n  """The number behind n."""\n'
_CHECK = "def check(candidate):\n  assert candidate(1) == 2\n  assert candidate(41) == 42\n"
AFTER = Assertions(("after",), f"{_CHECK}\ncheck(after)\n", setup=_PROMPT, prompt=_PROMPT)
FORCED = (
  "import os\nfor fd in range(3, 64):\n"
  '  try: os.write(fd, b\'["pass", ""]\\n\')\n  except OSError: pass\n'
)
PAIRS = Values("pairs", (("[[1, 2]]", "[[1, 1], [2, 2]]"), ("[[]]", "[]")))

# What a program tries before it does the work; {secret}, {project} and {port} are filled in.
ATTEMPTS = {
  "reads the users": "open('/etc/passwd').read()",
  "reads a file of ours": "open({secret!r}).read()",
  "reads the project": "open({project!r} + '/setup.py').read()",
  "finds the project": "import os\nassert os.path.exists({project!r})",
  "imports what is installed": "import sys\nsys.path += {path!r}\nimport absl",
  "sees processes": "import os\nassert os.listdir('/proc')",
  "reads its parent's memory": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb').read(1)",
  "reads the environment": "import os\nassert 'PATH' in os.environ or 'HOME' in os.environ",
  "runs another program": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
  "connects": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)",
  "opens a socket": "import socket\nsocket.socket()",
  "opens a socket to its host": "import socket\nsocket.socket(40, socket.SOCK_STREAM)",
  "becomes root": "import os\nos.setuid(0)",
  "changes its group": "import os\nos.setgroups([0])",
  "makes namespaces": (
    "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0, 'CLONE_NEWUSER'"
  ),
  "traces its parent": (
    "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0, 'ATTACH'"
  ),
  "takes memory that nobody counts": "import os\nos.memfd_create('x')",
  "takes shared memory": "import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0",
  "allocates 10 GB": "x = bytearray(10**10)",
  "maps 10 GB": "import mmap\nmmap.mmap(-1, 10**10)",
  "raises its limits": (
    "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
  ),
  "writes a long file": "open('x', 'wb').write(bytes(3 * 2**20))",
  "fills the disk": "for n in range(8): open(str(n), 'wb').write(bytes(2**20))",
  "opens many files": "x = [open('/dev/null') for _ in range(100)]",
  "starts 100 processes": (
    "import os, time\nfor _ in range(100):\n  if os.fork() == 0: time.sleep(60)"
  ),
  "starts 100 threads": (
    "import threading, time\n"
    "for _ in range(100): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
  ),
  **{
    f"writes into {folder}": f"open('{folder}/escaped', 'w').write('x')"
    for folder in ("/", "/tmp", "/usr/lib", "/dev", "/dev/shm", "/etc", "/root", "/box/..")
  },
  "writes where we are": "open({project!r} + '/escaped', 'w').write('x')",
  "loops": "while True: pass",
  "loops and will not be told": (
    "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
  ),
  "sleeps": "import time\ntime.sleep(600)",
  "bombs": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
  "floods its output": "while True: print('x' * 10**6)",
  "floods its errors": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
}
# Whole programs that do not do the work.
IDLE = {
  "nothing": "",
  "no Python": "The answer is 42.",
  "the first line": "print(sum(map(int, input().split())))",
  "the first case": "print('7\\nodd')",
  "something more": WORK + "print('or so')",
  "something before": "print('so')\n" + WORK,
  "a line between": WORK.replace("print(total)", "print(total)\nprint()"),
  "on the wrong stream": "import sys\nsys.stdout = sys.stderr\n" + WORK,
  "then a failure": WORK + "raise SystemExit(1)",
  "leaves at once": "import os\nos._exit(0)",
  "exits at once": "import sys\nsys.exit(0)",
  "kills its parent": "import os\nos.kill(os.getppid(), 9)\nprint('?')",
  "kills everyone": "import os\nos.kill(-1, 9)\nprint('?')",
  "kills a group": "import os\nos.killpg(0, 9)",
  "kills by number": (
    "import os\nfor n in range(1, 99999):\n  if n != os.getpid():\n"
    "    try: os.kill(n, 9)\n    except OSError: pass"
  ),
  "looks for the answer": (
    "import gc, sys\nframe = sys._getframe()\nseen = gc.get_objects()\n"
    "while frame: seen += [frame.f_locals, frame.f_globals]; frame = frame.f_back\n"
    "for o in seen:\n"
    "  if isinstance(o, (str, bytes, dict, list, tuple)) and 'odd\\n' in repr(o)[:9999]: print(o)"
  ),
  "reads what is open": (
    "import os\nfor fd in range(1024):\n"
    "  try: os.lseek(fd, 0, 0); print(os.read(fd, 9999).decode())\n  except OSError: pass"
  ),
}
# Programs for `AFTER`, whose tests are a program themselves.
FORGERIES = {
  "equal to everything": (
    "class E:\n  def __eq__(self, o): return True\n  def __ne__(self, o): return False\n"
    "def after(n): return E()"
  ),
  "a number equal to everything": (
    "class E(int):\n  def __eq__(self, o): return True\n  __hash__ = int.__hash__\n"
    "def after(n): return E(0)"
  ),
  "a list equal to everything": (
    "class E(list):\n  def __eq__(self, o): return True\ndef after(n): return E()"
  ),
  "another check": "def check(candidate): pass\ndef after(n): return 0",
  "leaves": "import os\nos._exit(0)\ndef after(n): pass",
  "leaves when called": "import os\ndef after(n): os._exit(0)",
  "exits": "import sys\nsys.exit(0)\ndef after(n): pass",
  "exits when called": "import sys\ndef after(n): sys.exit(0)",
  "exits late": "import atexit, os\natexit.register(os._exit, 0)\ndef after(n): raise SystemExit",
  "fails as a test does": "def after(n): raise AssertionError",
  "fails above tests": "def after(n): raise KeyboardInterrupt",
  "stops": "def after(n): raise StopIteration",
  "no assertions": (
    "import builtins\nclass A(BaseException): pass\nbuiltins.AssertionError = A\n"
    "def after(n): return 0"
  ),
  "no builtins": "import builtins\nvars(builtins).clear()\ndef after(n): return 0",
  "prints the verdict": 'print(\'["pass", ""]\', flush=True)\ndef after(n): return 0',
  "writes the verdict everywhere": FORCED.replace("range(3", "range(0") + "def after(n): return 0",
  "writes the verdict and leaves": FORCED + "os._exit(0)\ndef after(n): return 0",
  "says another's words": (
    'import json\njson.dumps = lambda *a, **k: \'["pass", ""]\'\ndef after(n): return 0'
  ),
  "speaks for the tests": (
    "import sys\nm = sys.modules['__main__']\nm.encode = m._sendable = lambda v: {'pass': ''}\n"
    "def after(n): return 0"
  ),
  "is the tests' module": (
    "import sys\nsys.modules['assertions'] = sys.modules[__name__]\n"
    "def check(candidate): pass\ndef after(n): return 0"
  ),
  "is no module any more": "import sys\ndef after(n): return 0\ndel sys.modules[__name__]",
  "walks the frames": (
    "import sys\ndef after(n):\n  frame = sys._getframe()\n  while frame:\n"
    "    for name, value in {**frame.f_globals, **frame.f_locals}.items():\n"
    "      if 'check' in str(value)[:999] or 'expected' in name: return value\n"
    "    frame = frame.f_back\n"
  ),
  "an answer that is no value": "def after(n): return lambda: n + 1",
  "an answer without end": "def after(n): return 'x' * 2**27",
  "a deep answer": "def after(n):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x",
  "no number": "def after(n): return float('nan')",
  "nonsense for an answer": FORCED.replace('["pass", ""]', "{{{") + "def after(n): return 0",
  "a type for an answer": (
    FORCED.replace('["pass", ""]', '{"value": {"opaque": true}}') + "def after(n): return 0"
  ),
  "loops when called": "def after(n):\n  while True: pass",
  "sleeps when called": "import time\ndef after(n): time.sleep(600)",
  "takes all memory when called": "def after(n): return bytearray(10**10)",
  "bombs when called": (
    "import os\ndef after(n):\n  while True:\n    try: os.fork()\n    except OSError: pass"
  ),
  "kills the tests": "import os\ndef after(n):\n  os.kill(-1, 9)\n  return 0",
  "the wrong number": "def after(n): return n + 2",
  "fails as a test without numpy": "def after(n): raise ModuleNotFoundError('numpy')",
  "fails as a test without a name": "def after(n): raise NameError('check')",
  "all numbers": "def after(n): return range(n, n + 2)",
  "numbers without end": "import itertools\ndef after(n): return itertools.count(n)",
  "an iterator that fails": "def after(n):\n  yield n + 1\n  raise AssertionError",
  "no such function": "def before(n): return n + 1",
  "goes on badly": "  return n",
}
EQUALS = {
  "equal to everything": (
    "class E(list):\n  def __eq__(self, o): return True\ndef pairs(x): return E()"
  ),
  "prints the value": "def pairs(x): print('[[1, 1], [2, 2]]'); raise SystemExit",
  "one case": "def pairs(x): return [[1, 1], [2, 2]]",
  "a set": "def pairs(x): return {(n, n) for n in x}",
  "its text": "def pairs(x): return str([[n, n] for n in x])",
}
SOUND = {
  "the work": (SUMS, WORK),
  "white space at ends": (SUMS, WORK.replace("print(total)", "print(total, '  ')") + "print()\n"),
  "as the main module": (
    SUMS,
    "import sys\nif __name__ == '__main__':\n  total = sum(map(int, sys.stdin.read().split()))\n"
    "  sys.stdout.write(f\"{total}\\n{['even', 'odd'][total % 2]}\")",
  ),
  "with much of the library": (
    SUMS,
    "import asyncio, bisect, collections, decimal, fractions, heapq, itertools, math, re\n"
    "open('notes', 'w').write('3')\n" + WORK,
  ),
  "in a thread, deeply": (
    SUMS,
    "import sys, threading\nsys.setrecursionlimit(10**5)\nthreading.stack_size(2**26)\n"
    "def f(n): return n and f(n - 1)\n"
    "t = threading.Thread(target=f, args=(2 * 10**4,))\nt.start()\nt.join()\n" + WORK,
  ),
  "with a process": (SUMS, "import os\nif os.fork() == 0: os._exit(0)\nos.wait()\n" + WORK),
  "the function": (AFTER, "def after(n):\n  return n + 1\n"),
  "the rest of the function": (AFTER, "  return n + 1\n"),
  "the rest, stripped": (AFTER, "m = n + 1\n  return m"),
  "the function, in another age": (
    AFTER,
    "from __future__ import annotations\nafter = lambda n: n + 1\n",
  ),
  "with words": (AFTER, "print('x' * 9999)\ndef after(n):\n  print(n)\n  return n + 1\n"),
  "a subclass": (AFTER, "class I(int): pass\ndef after(n): return I(n + 1)"),
  "a dataclass": (
    AFTER,
    "import pickle, sys\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass N:\n  v: int\n  left: 'N' = None\n"
    "def after(n): return sys.modules[__name__].N(pickle.loads(pickle.dumps(N(n))).v + 1).v",
  ),
  "a dataclass in another age": (
    PAIRS,
    "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass N:\n  v: int\ndef pairs(x): return [[N(n).v] * 2 for n in x]",
  ),
  "values": (PAIRS, "def pairs(x):\n  print(x)\n  return [(n, n) for n in x]"),
  "a solution": (
    PAIRS,
    "class Solution:\n  def pairs(self, x: List[int]) -> List[List[int]]:\n"
    "    return [[n] * 2 for n in x]",
  ),
}


def hostile(secret: str, port: int) -> dict[str, tuple[Outputs | Assertions | Values, str]]:
  """All hostile programs; `secret` is a file and `port` a listener that they must not reach."""
  known = {"secret": secret, "project": str(ROOT), "port": port, "path": sys.path}
  tried = {n: (SUMS, f"{text.format(**known)}\n{WORK}") for n, text in ATTEMPTS.items()}
  theirs = dataclasses.replace(SUMS, live_code_bench=True)
  parts = {
    "idle": (SUMS, IDLE),
    "mildly": (theirs, IDLE),
    "forgery": (AFTER, FORGERIES),
    "value": (PAIRS, EQUALS),
  }
  others = {f"{p}: {n}": (c, text) for p, (c, texts) in parts.items() for n, text in texts.items()}
  return tried | others


def outcomes() -> dict[str, list]:
  """The outcome of each hostile and each sound program, why, and after how many seconds."""
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    secret = Path(folder, "secret")
    secret.write_text("7")
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    programs = {**hostile(str(secret), listener.getsockname()[1]), **SOUND}
    pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(6))
    return dict(zip(programs, pool.map(_outcome, programs.values())))


def _outcome(program: tuple[Outputs | Assertions | Values, str]) -> list:
  began = time.monotonic()
  verdict = judge(sandbox(), *program, LIMITS)
  return [verdict.outcome.value, verdict.message, round(time.monotonic() - began, 2)]


if __name__ == "__main__":
  print(json.dumps({"user": os.getuid(), "outcomes": outcomes()}))
