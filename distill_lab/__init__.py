"""Knowledge distillation for Transformers."""
