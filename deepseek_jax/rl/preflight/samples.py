"""Findings about the samples of a trial: right and wrong, groups, rewards, lengths, form."""

import numpy as np

from deepseek_jax.evaluate import estimators
from deepseek_jax.rl.advantages import AdvantageConfig, group_advantages
from deepseek_jax.rl.preflight.finding import Finding, percent, told
from deepseek_jax.rl.preflight.trial import Trial
from deepseek_jax.rl.rollout import RolloutConfig

QUANTILES = (0.5, 0.9, 0.99)


def sample_findings(trial: Trial, rollout: RolloutConfig) -> list[Finding]:
  """All of them, what matters most first."""
  return [
    pass_finding(trial),
    group_finding(trial, rollout.advantage),
    reward_finding(trial, rollout.advantage),
    truncation_finding(trial, rollout.max_new),
    length_finding(trial, rollout.max_new),
    *([turn_finding(trial, rollout.turns)] if rollout.turns > 1 else []),
    left_out_finding(trial, rollout.width - rollout.max_new),
    format_finding(trial, rollout.reward.format),
    language_finding(trial, rollout.reward.language),
  ]


def pass_finding(trial: Trial) -> Finding:
  """pass@1 and pass@G, whose distance is what reinforcement can gain soonest."""
  correct_PJ = trial.correct_PJ
  problems, group = correct_PJ.shape
  estimates = {"pass@1": estimators.share(correct_PJ.mean(axis=1))}
  if np.isin(correct_PJ, (0, 1)).all():
    best_P = estimators.pass_at_k(correct_PJ, group)
    estimates[f"pass@{group}"] = estimators.share(best_P)
  figure = ", ".join(f"{name} {told(e)}" for name, e in estimates.items())
  figure += f", of {problems} problems with {group} samples each"
  if trial.gold.problems < problems:
    figure += f"; only {trial.gold.problems} problems are different, so that it is less certain"
  values = {name: estimate._asdict() for name, estimate in estimates.items()}
  value = estimates["pass@1"].value
  if not correct_PJ.any():
    figure = f"0 of {correct_PJ.size} samples are right: {figure}"
    change = "reinforcement has nothing to learn from; begin with SFT or an easier task"
    if not trial.format_PJ.any() and not trial.failures:
      change = f"none has the form that the verifier reads, see format; {change}"
    return Finding("pass", "red", figure, change, values)
  if value < 0.02:
    change = "few samples teach; SFT, an easier task or a larger group would help"
    return Finding("pass", "amber", figure, change, values)
  if value > 0.95:
    change = "there is little left to learn; take a harder task"
    return Finding("pass", "amber", figure, change, values)
  return Finding("pass", "green", figure, values=values)


def rounds_drawn(trial: Trial, rollout: RolloutConfig) -> float:
  """Rounds of sampling that an iteration will take: 1 over the share of groups that teach.

  At most 1 + `rollout.dynamic`, as where no group does.
  """
  advantages = group_advantages(trial.rewards_PJ, trial.truncated_PJ, rollout.advantage)
  useful = float(np.any(advantages.kept_BJ, axis=1).mean())
  most = 1.0 + rollout.dynamic
  return most if useful * most <= 1 else float(np.ceil(1 / useful))


def group_finding(trial: Trial, config: AdvantageConfig) -> Finding:
  """The groups whose rewards differ, which alone make an update; and why others do not."""
  advantages = group_advantages(trial.rewards_PJ, trial.truncated_PJ, config)
  useful_P = np.any(advantages.kept_BJ, axis=1)
  wrong_P = (trial.correct_PJ == 0).all(axis=1)
  right_P = (trial.correct_PJ == 1).all(axis=1)
  useful, wrong, right = (estimators.share(x_P) for x_P in (useful_P, wrong_P, right_P))
  count = len(useful_P)
  figure = (
    f"{useful_P.sum()} of {count} groups, {percent(useful)}, differ in reward and so teach "
    f"something; in {wrong_P.sum()} every sample is wrong, in {right_P.sum()} every one is right"
  )
  values = {
    "useful": useful._asdict(), "all_wrong": wrong._asdict(), "all_right": right._asdict(),
  }  # fmt: skip
  change = "" if wrong_P.sum() == right_P.sum() == 0 else "see the proposals for task and group"
  if not useful_P.any():
    return Finding("groups", "red", f"{figure}; no update would be made", change, values)
  level = "green" if useful.value >= 0.25 else "amber"
  return Finding("groups", level, figure, change if level == "amber" else "", values)


def reward_finding(trial: Trial, config: AdvantageConfig) -> Finding:
  """Mean and spread of the rewards that would be learned from, over all samples and in groups."""
  rewards_PJ = group_advantages(trial.rewards_PJ, trial.truncated_PJ, config).reward_BJ
  values = {
    "mean": float(rewards_PJ.mean()),
    "std": float(rewards_PJ.std()),
    "std_within_groups": float(rewards_PJ.std(axis=1).mean()),
  }
  figure = (
    f"mean {values['mean']:.3f}, standard deviation {values['std']:.3f}, "
    f"{values['std_within_groups']:.3f} within a group"
  )
  if values["std"] == 0:
    return Finding("reward", "red", figure, "nothing tells good samples from bad", values)
  return Finding("reward", "green", figure, values=values)


def truncation_finding(trial: Trial, max_new: int) -> Finding:
  """Samples cut off; amber above a fifth, red above four."""
  cut = estimators.share(trial.truncated_PJ.mean(axis=1))
  figure = f"{percent(cut)} of the samples are cut off at {max_new} tokens"
  values = {"share": cut._asdict()}
  if cut.value > 0.8:
    change = "the model does not end its answers; raise rl.rollout.max_new with width, or begin "
    return Finding("cut off", "red", figure, f"{change}with SFT on answers that end", values)
  if cut.value > 0.2:
    return Finding(
      "cut off", "amber", figure, "raise rl.rollout.max_new, and width with it", values
    )
  return Finding("cut off", "green", figure, values=values)


def length_finding(trial: Trial, max_new: int) -> Finding:
  """Quantiles of the samples' lengths; those at max_new stand for longer ones."""
  lengths = np.quantile(trial.lengths_PJ, QUANTILES, method="higher").astype(int)
  each = ", ".join(f"{100 * q:g} % {n}" for q, n in zip(QUANTILES, lengths, strict=True))
  beyond = f" ({max_new} stands for what is cut off)" if lengths[-1] == max_new else ""
  values = {f"{q:g}": int(n) for q, n in zip(QUANTILES, lengths, strict=True)}
  figure = f"{trial.lengths_PJ.mean():.1f} tokens on average; quantiles {each}{beyond}"
  return Finding("lengths", "green", figure, values=values)


def turn_finding(trial: Trial, most: int) -> Finding:
  """Turns of the model, and what the task's replies take; amber if no sample has a second turn."""
  assert trial.replies_PJ is not None and trial.reply_tokens_PJ is not None
  turns_PJ, tokens = 1 + trial.replies_PJ, float(trial.reply_tokens_PJ.mean())
  figure = (
    f"{turns_PJ.mean():.2f} of at most {most} on average, with {tokens:.1f} tokens of replies; "
    "they share rl.rollout.max_new, and with prompt and replies rl.rollout.width"
  )
  values = {"mean": float(turns_PJ.mean()), "most": float(turns_PJ.max()), "reply_tokens": tokens}
  if turns_PJ.max() > 1:
    return Finding("turns", "green", figure, values=values)
  return Finding("turns", "amber", figure, "no sample was answered: see cut off", values)


def left_out_finding(trial: Trial, room: int) -> Finding:
  """Prompts that do not fit; amber from any, red above half."""
  drawn = len(trial.lengths_PJ) + trial.left_out
  share = trial.left_out / drawn
  figure = f"{trial.left_out} of {drawn} prompts are longer than the {room} tokens there are"
  values = {"left_out": trial.left_out, "share": share}
  if not trial.left_out:
    return Finding("prompts", "green", f"all {drawn} fit into {room} tokens", values=values)
  level = "red" if share > 0.5 else "amber"
  change = "they are left out; raise rl.rollout.width, which less max_new is a prompt's room"
  return Finding("prompts", level, figure, change, values)


def format_finding(trial: Trial, weight: float) -> Finding:
  """How many samples have the form that the verifier reads."""
  form = estimators.share(trial.format_PJ.mean(axis=1))
  figure = f"{percent(form)} of the samples have the form that the verifier reads"
  if form.value > 0.1:
    return Finding("format", "green", figure, values={"share": form._asdict()})
  figure += f"; one that has not: {trial.formless!r:.100}"
  change = "see that the prompt asks for it (rl.rollout.template), or begin with SFT"
  if form.value > 0 and weight > 0:
    change = f"rl.rollout.reward.format, {weight:g}, will have to teach it; or {change}"
  return Finding("format", "amber", figure, change, {"share": form._asdict()})


def language_finding(trial: Trial, weight: float) -> Finding:
  """The words of the thoughts that are in the prompt's language."""
  mean = estimators.share(trial.language_PJ.mean(axis=1))
  figure = f"{percent(mean)} of the thoughts' words are in the prompt's language"
  values = {"share": mean._asdict()}
  if mean.value >= 0.5:
    return Finding("language", "green", figure, values=values)
  change = "" if weight > 0 else "rl.rollout.reward.language is 0; a weight above it rewards them"
  return Finding("language", "amber", figure, change, values)
