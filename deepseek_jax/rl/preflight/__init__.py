"""What is to be known of reinforcement before hours are spent: a trial, findings, proposals."""
