"""Programs that a model wrote, judged by running them where they can do no harm."""
