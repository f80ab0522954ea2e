"""PEFT tuners for vision transformers; importing a tuner's package registers it with PEFT."""
