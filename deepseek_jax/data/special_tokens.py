"""Spellings of the special tokens, which the mini tokenizers share with DeepSeek's."""

PAD, EOS = "<｜▁pad▁｜>", "<｜end▁of▁sentence｜>"
BOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"  # not the minis'
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
CONTROL = (PAD, EOS, FIM_BEGIN, FIM_HOLE, FIM_END)  # ids 0, 1, ... of the mini tokenizers
TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)
