"""Training over several processes as users start it: the same losses, and what if one is lost.

Two processes of two devices against one of four.
"""

import json
import random
import signal
import time

import jax
import numpy as np
import pytest

from deepseek_jax.hosts.heartbeat import LOST
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.metrics import WALL_CLOCK, read_metrics
from tests.processes import Processes, run_alone

STEPS = 8
MESH = ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
SMALL = ["--config.model.mtp_depth=0", "--config.model.layers=2"]


def pretrain(workdir, *more):
  return [
    "experiments.pretrain",
    "--config=configs/pretrain_tiny.py",
    f"--workdir={workdir}",
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=2",
    "--config.data.shards=2",
    *SMALL,
    *(more or MESH),
  ]


def records(workdir):
  """What was logged, but for the clock."""
  return [
    {name: value for name, value in record.items() if name not in WALL_CLOCK}
    for record in read_metrics(workdir / "metrics.jsonl")
  ]


def assert_same_trajectory(workdir, wanted, rtol=1e-5):
  """Equal steps, tokens and figures, and weights, up to the order in which float32 is added."""
  found, expected = records(workdir), records(wanted)
  assert [r["step"] for r in found] == [r["step"] for r in expected]
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    assert one.get("tokens_seen") == other.get("tokens_seen")
    for name in one:
      np.testing.assert_allclose(one[name], other[name], rtol=rtol, err_msg=f"{name}, {one}")
  weights = [load_weights(path / "checkpoints") for path in (workdir, wanted)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *weights)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("alone")
  run_alone(4, pretrain(workdir))
  return workdir


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("both")
  with Processes(2, 2, pretrain(workdir)) as processes:
    ended = processes.wait()
  for status, said in ended:
    assert status == 0, said
  return workdir, [said for _, said in ended]


def test_two_processes_give_the_losses_of_one(alone, both):
  assert_same_trajectory(both[0], alone)


def test_files_are_written_and_things_said_once(both):
  workdir, (first, second) = both
  assert [record["step"] for record in records(workdir)] == list(range(1, STEPS + 1))
  assert len(list((workdir / "tensorboard").iterdir())) == 1
  assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["6", "8"]
  assert (workdir / "report.html").is_file() and (workdir / "results.json").is_file()
  assert first.count(f"step {STEPS}/{STEPS}") == 1 and second == ""


def test_their_checkpoint_goes_on_in_one_process_on_another_mesh(alone, both, tmp_path):
  workdir = tmp_path / "fewer"
  with Processes(2, 2, pretrain(workdir, *MESH, "--config.train.steps=4")) as processes:
    assert [status for status, _ in processes.wait()] == [0, 0]
  run_alone(2, pretrain(workdir, "--config.mesh.data=2"))
  found, wanted = records(workdir), records(alone)
  assert [r["step"] for r in found] == [r["step"] for r in wanted]
  np.testing.assert_allclose([r["loss"] for r in found], [r["loss"] for r in wanted], rtol=1e-5)


def kill_once(workdir, victim, fresh, delay, *more):
  """Runs two processes until they wrote so many records, kills one; False if they ended before."""
  patient = ["--meeting_seconds=60", "--silence_seconds=30"]
  older = read_metrics(workdir / "metrics.jsonl")

  def written():
    return sum(record not in older for record in read_metrics(workdir / "metrics.jsonl"))

  with Processes(2, 2, [*pretrain(workdir, *MESH, *more), *patient]) as processes:
    while processes.running() and written() < fresh:
      time.sleep(0.01)
    time.sleep(delay)
    if not processes.running():
      return False
    processes.kill(victim)
    ((status, said),) = processes.wait(1 - victim)
  assert status == LOST, said
  sentences = [f"process {victim} is lost: nothing was heard of it", "not all of 2 met at"]
  assert sum(said.count(sentence) for sentence in sentences) == 1, said
  return True


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_one_process_goes_on(tmp_path, alone, victim):
  assert kill_once(tmp_path, victim, 3, 0.0)
  run_alone(4, pretrain(tmp_path))
  assert_same_trajectory(tmp_path, alone)


@pytest.mark.slow
def test_killed_at_ten_moments_it_is_the_run_undisturbed(tmp_path):
  """Twice while they start, and else behind one to three steps of their own."""
  rng, longer = random.Random(0), "--config.train.steps=60"
  run_alone(4, pretrain(tmp_path / "alone", *MESH, longer))
  for fresh in [0, 0, *(rng.randint(1, 3) for _ in range(8))]:
    delay = rng.uniform(0.0, 0.3 if fresh else 20.0)
    assert kill_once(tmp_path / "killed", rng.randrange(2), fresh, delay, longer)
  run_alone(4, pretrain(tmp_path / "killed", *MESH, longer))
  assert_same_trajectory(tmp_path / "killed", tmp_path / "alone")


def test_sigterm_to_any_ends_all_at_one_step_and_saves_it(tmp_path):
  steps = "--config.train.steps=100000"
  with Processes(2, 2, pretrain(tmp_path, *MESH, steps)) as processes:
    while processes.running() and not read_metrics(tmp_path / "metrics.jsonl"):
      time.sleep(0.01)
    processes.kill(1, signal.SIGTERM)
    (first, said), (second, nothing) = processes.wait()
  assert (first, second) == (143, 143), said + nothing
  assert said.count("SIGTERM: saved after step") == 1 and "SIGTERM" not in nothing
  saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == saved


def test_fine_tuning_goes_over_each_record_once_whatever_the_processes(tmp_path, alone):
  answers = tmp_path / "answers.jsonl"
  rows = [{"prompt": f"sum {n} {n} ?", "text": f"{2 * n}"} for n in range(1, 38)]
  answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
  job = [
    "experiments.sft",
    "--config=configs/sft_mini.py",
    f"--config.init={alone}",
    f"--config.data.path={answers}",
    "--config.data.batch=4",
    "--config.data.length=16",
    *MESH,
  ]
  run_alone(4, [*job, f"--workdir={tmp_path / 'one'}"])
  with Processes(2, 2, [*job, f"--workdir={tmp_path / 'two'}"]) as processes:
    for status, said in processes.wait():
      assert status == 0, said
  assert_same_trajectory(tmp_path / "two", tmp_path / "one")
  learnt = records(tmp_path / "two")
  assert len(learnt) > 4 and learnt[0]["loss"] > learnt[-1]["loss"]


def test_reinforcement_on_two_processes_is_bit_for_bit_that_on_one(tmp_path, alone):
  job = [
    "experiments.grpo",
    "--config=configs/grpo_tiny.py",
    f"--config.init={alone}",
    "--config.mesh.data=2",
    "--config.train.steps=3",
    "--config.rl.reference_every=2",
    "--config.rl.rollout.max_new=8",
    "--config.task=isolated:tests.positive_task:Positive",
  ]
  run_alone(2, [*job, f"--workdir={tmp_path / 'one'}"])
  with Processes(2, 1, [*job, f"--workdir={tmp_path / 'two'}"]) as processes:
    for status, said in processes.wait():
      assert status == 0, said
  one, two = (records(tmp_path / name) for name in ("one", "two"))
  assert one == two and sum(record["updates"] for record in one) > 0
  said = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("one", "two")]
  assert said[0] == said[1] != b""
  weights = [load_weights(tmp_path / name / "checkpoints") for name in ("one", "two")]
  jax.tree.map(np.testing.assert_array_equal, *weights)


@pytest.mark.parametrize(
  ("more", "told"),
  [
    (["--config.mesh.data=2"], "mesh is data 2"),
    (
      ["--config.mesh.data=4", "--config.lora.rank=2", "--config.init=INIT"],
      "lora trains adapters",
    ),
  ],
)
def test_what_several_processes_cannot_do_is_refused_by_all_and_told_once(
  tmp_path, alone, more, told
):
  more = [argument.replace("INIT", str(alone)) for argument in more]
  with Processes(2, 2, pretrain(tmp_path / "new", *more)) as processes:
    (first, said), (second, nothing) = processes.wait()
  assert (first, second) == (2, 2), said + nothing
  assert told in said and len(said.splitlines()) == 1 and nothing == ""
  assert not (tmp_path / "new").exists()
