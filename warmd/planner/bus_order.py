"""Which GPU it is that tells nothing: by its place between those that tell who they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def by_order(numbers: Collection[int], listed: Mapping[int, int | None]) -> dict[int, int]:
    """Return the number of each GPU that the driver lists and that doesn't tell its UUID.

    `numbers`: of the GPUs that there are, in the order of the bus; `listed`: at each index of the
    driver's the number of the one that is there, None where it doesn't tell. The driver numbers
    only what it lists, in the same order. One for which no number is left is left out.
    """
    free = sorted(set(numbers) - set(listed.values()))
    known = {index: number for index, number in listed.items() if number is not None}
    found: dict[int, int] = {}
    for index in sorted(listed.keys() - known.keys()):
        before = max((i for i in known if i < index), default=None)
        after = min((i for i in known if i > index), default=None)
        low = -1 if before is None else known[before]
        number = next(
            (n for n in free if n > low and (after is None or n < known[after])),
            None,
        )
        if number is not None:
            free.remove(number)
            known[index] = found[index] = number
    return found
