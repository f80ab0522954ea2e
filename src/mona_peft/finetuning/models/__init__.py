"""Models for dense prediction: transformers' own, and torchvision's detection parts on transformers' backbones."""
