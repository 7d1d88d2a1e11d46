"""Processes for verifiers of others: whatever happens in one, every call gets its outcome."""

import os
import subprocess
import sys
import threading
import time

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import workers
from deepseek_jax.tasks.workers import Limits, Workers

LIMITS = Limits(seconds=0.5, wall=2.0, memory=2**28)


@pytest.fixture(scope="module")
def pool():
  pool = Workers("tests.odd_scorers:make", ("fine",), count=2, limits=LIMITS)
  yield pool
  pool.close()


def test_outcomes_come_in_the_order_of_the_calls(pool):
  values = [{"n": n, "text": "\u2028é" * (n % 7)} for n in range(1000)]
  assert [o.value for o in pool.call([("echo", value) for value in values])] == values
  assert pool.call([]) == []
  assert pool.call([("anything",)])[0].value == "fine", "the maker's arguments"


@pytest.mark.parametrize(
  ("call", "failure", "message"),
  [
    (("raise", None), "error", "ValueError: two lines"),
    (("exit", 0), "error", "SystemExit"),
    (("deep", 0), "error", "RecursionError"),
    (("object", None), "error", "no plain value"),
    (("echo",) * 4, "error", "TypeError"),
    (("eval", "1 2"), "error", "SyntaxError"),
    (("spin", None), "time", "0.5 s"),
    (("eval", "9**9**9**9"), "time", "0.5 s"),
    (("sleep", 60), "time", "2 s"),
    (("memory", 2**29), "memory", "memory"),
    (("eval", "[0] * 10**12"), "memory", "memory"),
    (("long", 10_000), "output", "10013 characters"),
    (("leave", 0), "died", "exit"),
    (("leave", 77), "died", "ended"),
    (("abort", None), "died", "SIGABRT"),
    (("kill", None), "refused", "os.kill"),
    (("fork", None), "refused", "os.fork"),
    (("connect", None), "refused", "socket"),
  ],
)
def test_a_call_that_fails_says_how_and_the_others_are_judged(pool, call, failure, message):
  before, failed, after = pool.call([("echo", 1), call, ("echo", 2)])
  assert (before.value, after.value) == (1, 2)
  assert (failed.value, failed.failure) == (None, failure)
  assert message in failed.message and "\n" not in failed.message


def test_many_failures_in_one_batch_cost_no_other_item(pool):
  bad = {7: ("leave", 3), 8: ("abort", None), 40: ("raise", None), 63: ("spin", None)}
  outcomes = pool.call([bad.get(n, ("echo", n)) for n in range(128)])
  assert [o.value for n, o in enumerate(outcomes) if n not in bad] == [
    n for n in range(128) if n not in bad
  ]
  assert [outcomes[n].failure for n in bad] == ["died", "died", "error", "time"]


def test_what_a_scorer_prints_is_no_judgement(pool):
  assert [o.value for o in pool.call([("loud", None), ("echo", 3)])] == ["printed", 3]


def test_an_item_that_cannot_be_sent_is_an_error_of_its_own(pool):
  outcomes = pool.call([("echo", lambda: 0), ("echo", 5)])
  assert outcomes[0].failure == "error" and outcomes[1].value == 5


def test_files_are_neither_written_nor_removed(pool, tmp_path):
  kept = tmp_path / "kept"
  kept.write_text("x")
  outcomes = pool.call([("touch", str(tmp_path / "new")), ("remove", str(kept))])
  assert [o.failure for o in outcomes] == ["refused"] * 2
  assert list(tmp_path.iterdir()) == [kept]


COMPUTING = ["1 + 1", "[1, 2][0]", "sum([1, 2])", "{'a': (1, 2)}", "max(1, abs(-3)) if 1 else 2"]
HOSTILE = [
  "__import__('pathlib').Path({path!r}).touch()",
  "open({path!r}, 'w')",
  "().__class__.__base__.__subclasses__()",
  "getattr(1, 'real')",
  "eval('open(1)')",
  "(lambda: 1)()",
  "[x for x in (1, 2)]",
  "f'{{1}}'",
  "'{{0.__class__}}'.format(1)",
  "globals()",
  "__builtins__",
  "print(1)",
  "(x := 1)",
  "exec('import os')",
  "breakpoint()",
]


def test_a_text_that_is_evaluated_only_computes(pool, tmp_path):
  path = str(tmp_path / "marker")
  outcomes = pool.call([("eval", source) for source in COMPUTING])
  assert [o.failure for o in outcomes] == [""] * len(COMPUTING)
  assert [o.value for o in outcomes][:3] == [2, 1, 3]
  hostile = [source.format(path=path) for source in HOSTILE]
  for how in ("eval", "exec"):
    assert {o.failure for o in pool.call([(how, source) for source in hostile])} == {"refused"}
  statements = ["import os", "x = 1", "def f(): pass", "class A: pass", "del x", "while 1: pass"]
  assert {o.failure for o in pool.call([("exec", s) for s in statements])} == {"refused"}
  assert not list(tmp_path.iterdir())


def test_a_pool_that_cannot_be_made_says_why():
  for maker, message in (
    ("tests.odd_scorers:broken", "no such verifier"),
    ("tests.no_such_module:make", "no_such_module"),
    ("tests.odd_scorers:nothing", "nothing"),
  ):
    pool = Workers(maker, count=1)
    with pytest.raises(ConfigError, match=message):
      pool.call([("echo", 1)])
    with pytest.raises(ConfigError, match=message):
      pool.call([("echo", 1)])


def test_threads_share_a_pool(pool):
  found = {}

  def ask(n):
    found[n] = [o.value for o in pool.call([("echo", (n, i)) for i in range(50)])]

  threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == {n: [[n, i] for i in range(50)] for n in range(4)}


def test_an_interrupted_call_leaves_nothing_for_the_next(pool, monkeypatch):
  def interrupted(self):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr("deepseek_jax.tasks.workers._Call._hear", interrupted)
    pool.call([("echo", n) for n in range(300)])
  assert [o.value for o in pool.call([("echo", "next")] * 3)] == ["next"] * 3


def test_a_process_that_was_killed_meanwhile_is_replaced(pool):
  pool.call([("echo", 1)] * 4)
  for process in pool._processes:
    os.killpg(process._popen.pid, 9)
    process._popen.wait()
  assert [o.value for o in pool.call([("echo", 2)] * 4)] == [2] * 4


def test_an_item_whose_process_somebody_killed_is_judged_again(pool, monkeypatch):
  give, killed = workers._Process.give, []

  def give_and_kill(process, items, pickled):
    give(process, items, pickled)
    if process.ready and not killed:
      killed.append(len(items))
      os.killpg(process._popen.pid, 9)

  pool.call([("echo", 0)] * 2)  # so that both are ready
  monkeypatch.setattr(workers._Process, "give", give_and_kill)
  outcomes = pool.call([("echo", n) for n in range(8)])
  assert killed and [outcome.value for outcome in outcomes] == list(range(8))


def test_the_processes_end_with_the_program_that_started_them():
  program = (
    "import os, signal\n"
    "from deepseek_jax.tasks.workers import Workers\n"
    "pool = Workers('tests.odd_scorers:make', count=2)\n"
    "pool.call([('echo', 1)] * 4)\n"
    "print(*[p._popen.pid for p in pool._processes], flush=True)\n"
    "os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  groups = [int(pid) for pid in done.stdout.split()]
  assert len(groups) == 2, done.stderr
  deadline = time.monotonic() + 60
  while any(map(_lives, groups)) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not any(map(_lives, groups))


def _lives(group):
  try:
    os.killpg(group, 0)
  except ProcessLookupError:
    return False
  return True


def test_a_worker_needs_no_jax():
  program = (
    "import sys\n"
    "from deepseek_jax.tasks import worker\n"
    "from deepseek_jax.tasks import reasoning_gym, isolated\n"
    "from deepseek_jax.evaluate import mathematics\n"
    "assert 'jax' not in sys.modules, 'its import would take seconds in every process'\n"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
