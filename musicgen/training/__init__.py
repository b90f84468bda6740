"""Training: trainer, run folder, plan, fine-tuning, observers. It imports torch."""
