"""The one loop, and what it needs: optimizer, schedule, precision, checkpoints, log."""
