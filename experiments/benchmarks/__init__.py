"""What `experiments.bench` is made of: contenders, the parts of a step, and how they are timed."""
