"""The settings of an R1 run: the stages it has, and one evaluation for all of them.

Every length is a number of steps, prompts or epochs, never of seconds. A stage is trained, given (a
model from outside stands in its place), or left out (None); see `graph.py`.
"""

import dataclasses
import math

from deepseek_jax.config import ComputeConfig, ModelConfig, require
from deepseek_jax.data.written import WrittenConfig
from deepseek_jax.rl.rejection import RejectionConfig
from deepseek_jax.rl.trainer import RLConfig
from deepseek_jax.seeds import check_seed
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.train.optimizer import OptimizerConfig

SEEDS_PER_RUN = 1000  # each stage has its own, see graph.seed_of


@dataclasses.dataclass(frozen=True)
class GivenStage:
  """A model from outside in the place of a stage, which is then only measured.

  Architecture and tokenizer are the model's own (`resolve.r1_config` reads them), but for a context
  and a rotation that are set; so are those of every stage that starts from it.
  """

  init: str  # a workdir, Hugging Face directory, GGUF file or Hub name
  model: ModelConfig
  tokenizer: str


@dataclasses.dataclass(frozen=True)
class PretrainStage:
  """Pre-training on worked solutions of uneven quality."""

  steps: int
  batch: int = 12
  length: int = 128
  packing: str = "v3"  # v3: problems in a row see those before them; documents: they do not
  rate: float = 3e-3  # peak; warm-up, then a cosine to a tenth
  warmup: int = 50
  mtp: tuple[float, ...] = (0.3, 0.1)  # MTP weight, before and after two thirds of the run
  bias_speed: float = 1e-3
  balance_weight: float = 1e-4
  task: str = ""  # by default the run's
  tokenizer: str = ""  # by default the run's

  def __post_init__(self) -> None:
    require(self.steps > 0, f"steps is {self.steps}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class TuneStage:
  """Fine-tuning on another stage's filtered samples: cold start, second SFT, distillation.

  What is learnt is text, in the tokenizer of the model that learns it. Beside the samples, or in
  their place, stand written answers of files: `traces` of thoughts, `general` data.
  """

  samples: RejectionConfig = RejectionConfig()
  epochs: int = 2
  batch: int = 12
  length: int = 160
  rate: float = 1e-3
  warmup: int = 10
  mtp_weight: float = 0.1
  bias_speed: float = 1e-3
  balance_weight: float = 1e-4
  start: str = ""  # the stage whose weights it begins with; by default the graph's
  source: str = ""  # the stage that is sampled; by default the graph's; `none`: files alone
  task: str = ""  # of the problems that are sampled; by default the run's
  template: str = ""  # how prompts are put; by default as the model that it starts from is asked
  traces: WrittenConfig = WrittenConfig()
  general: WrittenConfig = WrittenConfig()

  def __post_init__(self) -> None:
    require(self.epochs > 0, f"epochs is {self.epochs}; it must be positive.")
    shares = sum(written.share for written in self.written.values())
    require(
      shares < 1,
      f"traces.share and general.share are {shares:g} together; they must leave room for samples.",
    )

  @property
  def written(self) -> dict[str, WrittenConfig]:
    """The files that are learnt from, by name."""
    both = {"traces": self.traces, "general": self.general}
    return {name: written for name, written in both.items() if written.path}


@dataclasses.dataclass(frozen=True)
class ReinforceStage:
  """Group-relative policy optimisation against the task's verifier."""

  iterations: int  # rollouts
  rl: RLConfig = RLConfig()
  start: str = ""  # the stage whose weights it begins with; by default the graph's
  task: str = ""  # by default the run's

  def __post_init__(self) -> None:
    require(self.iterations > 0, f"iterations is {self.iterations}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """How every stage is measured: greedy, and with `samples` per problem at T = 0.6 and T = 1."""

  problems: int = 128
  samples: int = 8
  max_new: int = 128
  template: str = ""  # of the prompts; by default each stage's as it was trained

  def __post_init__(self) -> None:
    for name in ("problems", "samples", "max_new"):
      value = getattr(self, name)
      require(value > 0, f"evaluation.{name} is {value}; it must be positive.")


Stage = PretrainStage | TuneStage | ReinforceStage | GivenStage


@dataclasses.dataclass(frozen=True)
class R1Config:
  """The recipe of R1 (2501.12948, figure 2) and the two students of section 2.4 and 4.1.

  `teacher`, `student` and `tokenizer` are those of models that are pre-trained in the run.
  """

  teacher: ModelConfig | None = None
  student: ModelConfig | None = None
  base: PretrainStage | GivenStage | None = None
  r1_zero: ReinforceStage | GivenStage | None = None
  cold_start: TuneStage | GivenStage | None = None
  rl1: ReinforceStage | GivenStage | None = None
  sft2: TuneStage | GivenStage | None = None
  r1: ReinforceStage | GivenStage | None = None
  student_base: PretrainStage | GivenStage | None = None
  distilled: TuneStage | GivenStage | None = None
  student_rl: ReinforceStage | GivenStage | None = None
  task: str = "mini"  # name, or package.module:name
  tokenizer: str = "word"
  seed: int = 0
  optimizer: OptimizerConfig = OptimizerConfig()
  compute: ComputeConfig = ComputeConfig()
  mesh: MeshConfig = MeshConfig()
  evaluation: EvaluationConfig = EvaluationConfig()
  engine_batch: int = 256
  log_every: int = 1
  save_every: int = 200  # steps or iterations between checkpoints within a stage
  price_per_device_hour: float = 0.0  # in whatever currency; 0: costs are not shown

  def __post_init__(self) -> None:
    check_seed("seed", self.seed, 2**64 // SEEDS_PER_RUN)
    price = self.price_per_device_hour
    require(
      0 <= price < math.inf,
      f"price_per_device_hour is {price}; it must be finite and not negative.",
    )

  def task_of(self, stage: Stage) -> str:
    """The name of the task that a stage draws problems of."""
    return getattr(stage, "task", "") or self.task
