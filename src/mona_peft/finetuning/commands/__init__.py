"""The command `mona-peft`, one module a command. Nothing here imports torch before it is used."""
