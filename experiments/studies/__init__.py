"""What the programs of studies compare runs with, and draw."""
