"""The first thing that runs in a sandbox: it gives up what it may, then becomes the program.

Its text is an argument of the interpreter. Its own are: the descriptor of a file that holds the
program; that of a pipe which it writes to and closes before the program begins; the user to become,
or - for none; and limits, NAME SOFT HARD each, by the names of `resource`. There is nothing else
here that a program could want. It imports little, for it runs before every program.
"""

import os
import resource
import sys


def prepared() -> str:
  """Gives up what this process may, says so, and returns the program's text."""
  program, ready, user, *limits = sys.argv[1:]
  if user != "-":
    os.setgroups([])
    os.setresgid(*[int(user)] * 3)
    os.setresuid(*[int(user)] * 3)
  for name, soft, hard in zip(limits[::3], limits[1::3], limits[2::3]):
    which = getattr(resource, name)
    before = resource.getrlimit(which)[1]  # of whoever started us, and may be less
    most = int(hard) if before == resource.RLIM_INFINITY else min(int(hard), before)
    resource.setrlimit(which, (min(int(soft), most), most))
  with open(int(program), encoding="utf-8", errors="replace") as file:
    text = file.read()
  os.write(int(ready), b"1")
  os.close(int(ready))
  return text


def become(text: str) -> None:
  """Runs the program as the main module."""
  sys.argv = ["program.py"]
  module = type(sys)("__main__")
  sys.modules["__main__"] = module
  exec(compile(text, "program.py", "exec"), module.__dict__)


if __name__ == "__main__":
  become(prepared())
