"""The stage keeper's program: holds files in RAM. Standard library only; see `program.py`."""
