"""The life cycle that PEFT promises of an adapter, held against every tuner here and two of PEFT's own."""
