"""The models' weights: whole, readable by the daemon, and of known residency."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.doctor.user import Obstacle, Right, User, allows, obstacle, unseen
from warmd.engine import SizingError
from warmd.engine.sizing.headers import read_header
from warmd.spoken import count, size
from warmd.staging import StagingError, expected_digests, model_folder, weight_files

_SUBJECT = "weights"


@dataclass(frozen=True)
class ModelWeights:
    """One model's files. `trouble` and `obstacle` say why they can't be used."""

    model: str
    folder: Path
    total: int = 0
    foreign: Path | None = None  # a file that the daemon neither owns nor may write
    obstacle: Obstacle | None = None
    trouble: str | None = None


def look_at_weights(
    folders: Mapping[str, Path],
    verified: Mapping[str, str],
    user: User,
    engines: User | None = None,
) -> tuple[ModelWeights, ...]:
    """Look at each model's folder, and at what `verified` says its weights are verified by.

    `engines`: who runs them, where that isn't the daemon's `user`. May block on a network mount.
    """
    readers = (user,) if engines is None else (user, engines)
    return tuple(
        _look(model, folder, verified.get(model), readers) for model, folder in folders.items()
    )


def _stopped(path: Path, readers: Sequence[User], rights: Right) -> Obstacle | None:
    found = (obstacle(path, each, rights) for each in readers)
    return next((each for each in found if each is not None), None)


def _look(model: str, folder: Path, verify: str | None, readers: Sequence[User]) -> ModelWeights:
    user = readers[0]
    stopped = _stopped(folder, readers, Right.READ | Right.EXECUTE)
    if stopped is not None:
        return ModelWeights(model, folder, obstacle=stopped)
    try:
        found = weight_files(folder)
    except StagingError as error:
        if os.geteuid() not in (0, user.uid):
            return ModelWeights(model, folder, obstacle=unseen(folder))
        return ModelWeights(model, folder, trouble=str(error))
    foreign = None
    for file in found.files:
        stopped = _stopped(file, readers, Right.READ)
        if stopped is not None:
            return ModelWeights(model, folder, found.total, obstacle=stopped)
        status = file.stat()
        if status.st_uid != user.uid and not allows(status, user, Right.WRITE):
            foreign = foreign or file
        if file.suffix == ".safetensors":
            try:
                read_header(file)
            except SizingError as error:
                return ModelWeights(model, folder, found.total, trouble=str(error))
    if verify is not None:
        try:
            expected_digests(verify, model_folder(folder), found.files)
        except StagingError as error:
            return ModelWeights(model, folder, found.total, trouble=str(error))
    return ModelWeights(model, folder, found.total, foreign)


def judge_weights(
    models: tuple[ModelWeights, ...], tables_work: bool, user: User
) -> Iterator[Finding]:
    """`tables_work`: whether page tables can be read, the slow way to measure residency."""
    whole = [each for each in models if each.obstacle is None and each.trouble is None]
    if whole:
        total = size(sum(each.total for each in whole))
        yield ok(_SUBJECT, f"{count(len(whole), 'model')} whole and readable, {total}")
    for each in models:
        name = f"models.{each.model}"
        if (stopped := each.obstacle) is not None:
            yield stopped.finding(_SUBJECT, f"{name} can't be read: {stopped}")
        elif each.trouble is not None:
            what, _, remedy = each.trouble.partition("; ")
            yield problem(_SUBJECT, f"{name}: {what}", remedy)
        elif each.foreign is not None:
            own = f"for the exact way: sudo chown -R {user.uid} {each.folder}"
            if tables_work:
                yield note(
                    _SUBJECT,
                    f"{name}: {user} doesn't own its files, so what of them is in RAM is measured "
                    "by page tables, which takes longer",
                    own,
                )
            else:
                yield warning(
                    _SUBJECT,
                    f"{name}: {user} doesn't own its files, so nothing can tell whether they are "
                    "in RAM, and the model is never staged",
                    own,
                )
