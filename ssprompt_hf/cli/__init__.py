"""The command `ssprompt-hf`: `main.py`, and one module a sub-command.

A sub-command is a module with `HELP`, a line; `fill(parser)`, which adds its options; and `run(options)`. The table in
`main.py` names them. Heavy modules are imported where a command is filled or run, so that `--help` answers at once.
"""
