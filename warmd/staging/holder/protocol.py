"""The version of what a daemon and a stage keeper say to each other: either may be the newer."""

PROTOCOL = 1

NAME = "warmd-stage"
"""The keeper's name in `ps`, by which a daemon knows one that doesn't answer."""
