"""The command `mona-peft`: what its words are, one module a command. Nothing here imports torch before it is used."""
