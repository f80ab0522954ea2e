"""Mona (Multi-cognitive Visual Adapter, CVPR 2025) as a plugin for Hugging Face PEFT."""
