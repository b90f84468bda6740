"""Training: trainer, run folder, plan, fine-tuning, observers. Imports torch."""
