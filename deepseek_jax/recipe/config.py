"""The settings of a whole R1 run: two models, nine stages, one evaluation.

Every length is a number of steps, prompts or epochs, never of seconds.
"""

import dataclasses

from deepseek_jax.config import ComputeConfig, ModelConfig, require
from deepseek_jax.rl.rejection import RejectionConfig
from deepseek_jax.rl.trainer import RLConfig
from deepseek_jax.seeds import check_seed
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.train.optimizer import OptimizerConfig

SEEDS_PER_RUN = 1000  # stage seeds: each stage draws its own problems


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

  def __post_init__(self) -> None:
    require(self.steps > 0, f"steps is {self.steps}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class TuneStage:
  """Fine-tuning on an earlier stage's filtered samples: cold start, second SFT, distillation."""

  samples: RejectionConfig
  epochs: int = 2
  batch: int = 12
  length: int = 160
  rate: float = 1e-3
  warmup: int = 10
  mtp_weight: float = 0.1
  bias_speed: float = 1e-3
  balance_weight: float = 1e-4

  def __post_init__(self) -> None:
    require(self.epochs > 0, f"epochs is {self.epochs}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class ReinforceStage:
  """Group-relative policy optimisation against the task's verifier."""

  iterations: int  # rollouts
  rl: RLConfig = RLConfig()

  def __post_init__(self) -> None:
    require(self.iterations > 0, f"iterations is {self.iterations}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """How every stage is measured: greedy, and with `samples` per problem at T = 0.6 and T = 1."""

  problems: int = 128
  samples: int = 8
  max_new: int = 128

  def __post_init__(self) -> None:
    for name in ("problems", "samples", "max_new"):
      value = getattr(self, name)
      require(value > 0, f"evaluation.{name} is {value}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class R1Config:
  """The recipe of R1 (2501.12948, figure 2) and the two students of section 2.4 and 4.1."""

  teacher: ModelConfig
  student: ModelConfig
  base: PretrainStage
  r1_zero: ReinforceStage
  cold_start: TuneStage
  rl1: ReinforceStage
  sft2: TuneStage
  r1: ReinforceStage
  student_base: PretrainStage
  distilled: TuneStage
  student_rl: ReinforceStage
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

  def __post_init__(self) -> None:
    check_seed("seed", self.seed, 2**64 // SEEDS_PER_RUN)
