"""What leaves the house: merged models and other formats."""
