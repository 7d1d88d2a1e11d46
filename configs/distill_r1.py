"""R1's six students as published (2501.12948, section 2.4 and its table of rates).

Reproduces: 800K samples of R1, two epochs (two to three are said), the student's own rate, a cosine
  to a tenth of it, batch 64, 32,768 tokens; fine-tuning alone, no reinforcement. Students learn the
  text, each in its own tokenizer. Where the 800K samples exist as a file, nothing is sampled:
  --config.distilled.source=none --config.distilled.traces.path=FILE. Chosen here: prompts and
  samples a prompt. The two Qwen2.5-Math models have a context of 4,096 tokens, which is set to that
  of the released students; their rotation stays.
Hardware: R1 samples on what configs/r1_671b.py is for. The mesh here is for 64 devices.
Command: python -m experiments.r1 --config=configs/distill_r1.py:qwen_7b --workdir=W
         --config.task=package.module:name; or qwen_1_5b, qwen_14b, qwen_32b, llama_8b, llama_70b
Result: not run.
"""

from ml_collections import ConfigDict

from configs.r1_base import r1

CONTEXT = 32_768
STUDENTS = {  # the model it begins as, and its rate
  "qwen_1_5b": ("Qwen/Qwen2.5-Math-1.5B", 1e-4),
  "qwen_7b": ("Qwen/Qwen2.5-Math-7B", 8e-5),
  "qwen_14b": ("Qwen/Qwen2.5-14B", 7e-5),
  "qwen_32b": ("Qwen/Qwen2.5-32B", 6e-5),
  "llama_8b": ("meta-llama/Llama-3.1-8B", 5e-5),
  "llama_70b": ("meta-llama/Llama-3.3-70B-Instruct", 2e-5),
}


def get_config(student: str = "qwen_7b") -> ConfigDict:
  """One student; the teacher is given, and only sampled."""
  if student not in STUDENTS:
    raise ValueError(f"{student!r} is no student of R1's; use one of {', '.join(STUDENTS)}")
  init, rate = STUDENTS[student]
  return r1(
    stages="r1,student_base,distilled",
    r1={"init": "deepseek-ai/DeepSeek-R1"},
    student_base={"init": init, "model": {"max_context": 131_072}},
    distilled={
      "samples": {
        "prompts": 200_000,
        "group": 16,
        "keep": 4,
        "max_new": CONTEXT - 2048,
        "temperature": 0.6,
      },
      "epochs": 2,
      "batch": 64,
      "length": CONTEXT,
      "rate": rate,
    },
    evaluation={"problems": 512, "samples": 16, "max_new": CONTEXT},
    optimizer={"moment_dtype": "bfloat16"},
    compute={"dtype": "bfloat16", "remat": "full"},
    mesh={"fsdp": 64},
    engine_batch=1024,
    save_every=100,
  )
