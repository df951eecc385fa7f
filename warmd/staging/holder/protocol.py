"""The version of what a daemon and a stage keeper say to each other: either may be the newer."""

PROTOCOL = 1
