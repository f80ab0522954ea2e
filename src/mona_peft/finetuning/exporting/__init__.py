"""One file with base model, adapter and head, for programs without PEFT."""
