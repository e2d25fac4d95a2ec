"""The content-addressed store: SQLite, one transaction a batch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from stabfw.components.data import (
    Answer,
    AnswerKind,
    AnswerStatus,
    FinishReason,
    Prediction,
    Score,
    TopToken,
)
from stabfw.components.files import write_atomic
from stabfw.errors import StoreError
from stabfw.store.keys import canonical
from stabfw.store.lease import Owner

SCHEMA_VERSION = 6
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p"}


@dataclass(frozen=True)
class Strength:
    """How far a perturbation moved an instance from the original.

    Attributes:
        psnr: Peak signal-to-noise ratio of its pictures in dB, of the mean squared error over all
            of them; None where they are the same.
        ssim: Mean structural similarity of its pictures; None where none was changed.
        edits: Characters of the prompt to insert, delete or replace.
    """

    psnr: float | None
    ssim: float | None
    edits: int


@dataclass(frozen=True)
class Outcome:
    """One instance's prediction in a cell, with the answer read out of it and its score.

    `strength` tells how far the instance was perturbed, where that was measured; `extras` holds
    what else was recorded, by the key of its recorder.
    """

    instance_id: str
    input_hash: str
    prediction: Prediction
    answer: Answer
    score: Score
    strength: Strength | None = None
    extras: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class CellRow:
    """What the store knows of a cell. `status` is `started`, `done` or `failed`."""

    key: str
    label: str
    fields: Mapping[str, Any]
    status: str
    reason: str
    weights: str
    report: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]
    seconds: float


class Store:
    """Outcomes of all experiments that share a directory.

    A batch is in the store wholly or not at all, and stays there through a crash of the process
    or of the machine. Readers never wait for writers.

    Args:
        directory: Where the store lies; made if it does not exist.

    Raises:
        StoreError: The directory cannot be written, lies on a network file system, or holds a
            store of another schema.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "outcomes.sqlite"
        self._me = Owner.me()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _refuse_network(directory)
            # Two first users of one directory may arrive together; the second waits.
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                self._prepare()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise StoreError(
                f"{directory}: cannot use this directory as a store: {error}; "
                "choose another one with `store:` in the spec or --set store=DIR"
            ) from error

    def close(self) -> None:
        """Give up all leases and close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute(
                "DELETE FROM leases WHERE boot=? AND pid=? AND started=?",
                (self._me.boot, self._me.pid, self._me.started),
            )
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Data sets and artefacts

    def dataset(self, fingerprint: str) -> Any | None:
        """Return what `put_dataset` kept under a fingerprint, or None."""
        rows = self._execute("SELECT content FROM datasets WHERE fingerprint=?", fingerprint)
        return json.loads(rows[0][0]) if rows else None

    def put_dataset(self, fingerprint: str, content: object) -> None:
        """Keep a JSON-compatible description of a data set."""
        self._execute(
            "INSERT OR REPLACE INTO datasets VALUES (?, ?)", fingerprint, canonical(content)
        )

    def artefact(self, recipe: str) -> bytes | None:
        """Return what `put_artefact` kept for a recipe, or None."""
        digest = self.artefact_digest(recipe)
        return None if digest is None else self._read(digest)

    def artefact_digest(self, recipe: str) -> str | None:
        """sha256 of the artefact of a recipe, or None while there is none."""
        rows = self._execute("SELECT digest FROM artefacts WHERE recipe=?", recipe)
        return str(rows[0][0]) if rows and self._file(rows[0][0]).exists() else None

    def put_artefact(self, recipe: str, data: bytes) -> str:
        """Keep an artefact; the first one made from a recipe stays.

        Returns:
            Its sha256, or that of the first one.
        """
        if (first := self.artefact_digest(recipe)) is not None:
            return first
        digest = hashlib.sha256(data).hexdigest()
        self._write(digest, data)
        self._execute("INSERT OR REPLACE INTO artefacts VALUES (?, ?)", recipe, digest)
        with contextlib.suppress(OSError):
            self._file(_unfinished(recipe)).unlink(missing_ok=True)
        return digest

    def unfinished(self, recipe: str) -> bytes | None:
        """Return what `put_unfinished` kept of a fit that did not come to its end, or None."""
        return self._read(_unfinished(recipe))

    def put_unfinished(self, recipe: str, data: bytes) -> None:
        """Keep a state from which a fit can go on, until its artefact is kept."""
        self._write(_unfinished(recipe), data)

    def artefact_path(self, digest: str) -> Path:
        """Where an artefact is."""
        return self._file(digest)

    def _file(self, name: str) -> Path:
        # Weights may be larger than what SQLite takes for one value.
        return self.directory / "artefacts" / name

    def _read(self, name: str) -> bytes | None:
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._file(name)}: cannot be read: {error.strerror}") from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_atomic(self._file(name), data)
        except OSError as error:
            raise StoreError(
                f"{self._file(name)}: cannot be written: {error.strerror}; free some space, or "
                "use another store (--set store=DIR)"
            ) from error

    # Cells

    def cell(self, key: str) -> CellRow | None:
        """Return what is known of a cell."""
        rows = self._execute("SELECT * FROM cells WHERE key=?", key)
        return _cell(rows[0]) if rows else None

    def cells(self) -> Iterator[CellRow]:
        """Yield all cells, in the order of their keys."""
        yield from map(_cell, self._execute("SELECT * FROM cells"))

    def claim(self, key: str, fields: Mapping[str, Any], label: str) -> bool:
        """Take a cell to work on it; False while another living process has it or it is done."""
        with self._transaction():
            status = self._db.execute("SELECT status FROM cells WHERE key=?", (key,)).fetchone()
            if status and status[0] == "done":
                return False
            lease = self._db.execute(
                "SELECT boot, pid, started, heartbeat FROM leases WHERE key=?", (key,)
            ).fetchone()
            if lease and Owner(*lease[:3]) != self._me and Owner(*lease[:3]).alive(lease[3]):
                return False
            self._db.execute(
                "INSERT INTO cells (key, fields, label, status) VALUES (?, ?, ?, 'started') "
                "ON CONFLICT (key) DO UPDATE SET status='started', reason=''",
                (key, canonical(fields), label),
            )
            self._db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)",
                (key, self._me.boot, self._me.pid, self._me.started, time.time()),
            )
            return True

    def committed(self, key: str) -> frozenset[int]:
        """Numbers of the batches of a cell that are in the store."""
        rows = self._execute("SELECT number FROM batches WHERE key=?", key)
        return frozenset(number for (number,) in rows)

    def begin(self, key: str, weights: str, provenance: Mapping[str, Any]) -> None:
        """Note what was observed when the cell's model was loaded."""
        update = "UPDATE cells SET weights=?, provenance=? WHERE key=?"
        self._execute(update, weights, canonical(provenance), key)

    def restart(self, key: str) -> None:
        """Forget all outcomes of a cell."""
        with self._transaction():
            for table in ("batches", "predictions", "extras", "scores"):
                self._db.execute(f"DELETE FROM {table} WHERE key=?", (key,))

    def reopen_errors(self, key: str) -> None:
        """Give up the batches of a finished cell in which instances could not be asked."""
        failed = "SELECT DISTINCT batch FROM predictions WHERE key=? AND finish=?"
        error = FinishReason.ERROR.value
        with self._transaction():
            done = "SELECT 1 FROM cells WHERE key=? AND status='done'"
            if not self._db.execute(done, (key,)).fetchone():
                return
            numbers = [number for (number,) in self._db.execute(failed, (key, error))]
            for number in numbers:
                at = "SELECT instance FROM predictions WHERE key=? AND batch=?"
                for table in ("scores", "extras"):
                    self._db.execute(
                        f"DELETE FROM {table} WHERE key=? AND instance IN ({at})",
                        (key, key, number),
                    )
                self._db.execute("DELETE FROM predictions WHERE key=? AND batch=?", (key, number))
                self._db.execute("DELETE FROM batches WHERE key=? AND number=?", (key, number))
            if numbers:
                self._db.execute("UPDATE cells SET status='started' WHERE key=?", (key,))

    def commit_batch(
        self,
        key: str,
        number: int,
        scorer: str,
        outcomes: Sequence[Outcome],
        report: Mapping[str, Mapping[str, Any]],
        seconds: float,
    ) -> None:
        """Add a whole batch; adding it again changes nothing."""
        with self._transaction():
            added = self._db.execute("INSERT OR IGNORE INTO batches VALUES (?, ?)", (key, number))
            if added.rowcount == 0:
                return
            self._db.executemany(
                "INSERT INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_prediction_row(key, number, outcome) for outcome in outcomes],
            )
            self._db.executemany(
                "INSERT INTO extras VALUES (?, ?, ?, ?)",
                [
                    (key, outcome.instance_id, recorder, struct.pack(f"<{len(item)}d", *item))
                    for outcome in outcomes
                    for recorder, item in outcome.extras.items()
                ],
            )
            self._put_scores(key, scorer, outcomes)
            (before,) = self._db.execute("SELECT report FROM cells WHERE key=?", (key,)).fetchone()
            # What only an earlier batch told stands.
            self._db.execute(
                "UPDATE cells SET report=?, seconds=seconds+? WHERE key=?",
                (canonical({**json.loads(before), **report}), seconds, key),
            )
            self._db.execute("UPDATE leases SET heartbeat=? WHERE key=?", (time.time(), key))

    def finish(self, key: str) -> None:
        """Mark a cell as done and give it up."""
        self._end(key, "done", "")

    def fail(self, key: str, reason: str) -> None:
        """Mark a cell as failed and give it up; its batches stay for the next try."""
        self._end(key, "failed", reason)

    def release(self, key: str) -> None:
        """Give a cell up unfinished."""
        self._execute("DELETE FROM leases WHERE key=?", key)

    # Outcomes

    def predictions(self, key: str) -> dict[str, tuple[str, Prediction]]:
        """Return input hash and prediction of every instance of a cell, by instance id."""
        rows = self._execute(
            "SELECT instance, input_hash, text, finish, error, prefill_ms, decode_ms, depths, "
            "detail FROM predictions WHERE key=?",
            key,
        )
        return {row[0]: (row[1], _prediction(row)) for row in rows}

    def strengths(self, key: str) -> dict[str, Strength]:
        """Return how far instances of a cell were perturbed, by id, where that was measured."""
        rows = self._execute(
            "SELECT instance, json_extract(detail, '$.strength') FROM predictions "
            "WHERE key=? AND json_extract(detail, '$.strength') IS NOT NULL",
            key,
        )
        return {instance: Strength(**json.loads(strength)) for instance, strength in rows}

    def extras(self, key: str, recorder: str) -> dict[str, tuple[float, ...]]:
        """Return what a recorder had of instances of a cell, by id."""
        rows = self._execute(
            "SELECT instance, numbers FROM extras WHERE key=? AND recorder=?", key, recorder
        )
        return {instance: struct.unpack(f"<{len(n) // 8}d", n) for instance, n in rows}

    def scores(self, key: str, scorer: str) -> dict[str, tuple[Answer, Score]]:
        """Return answers and scores of a cell that a version of a scorer made, by instance id."""
        rows = self._execute(
            "SELECT instance, answer, kind, status, value, correct FROM scores "
            "WHERE key=? AND scorer=?",
            key,
            scorer,
        )
        return {
            instance: (
                Answer(answer, AnswerKind(kind), AnswerStatus(status)),
                Score(value, bool(correct)),
            )
            for instance, answer, kind, status, value, correct in rows
        }

    def scorers(self, key: str) -> dict[str, int]:
        """Return how many scores of a cell there are by each version of a scorer."""
        rows = self._execute(
            "SELECT scorer, COUNT(*) FROM scores WHERE key=? GROUP BY scorer ORDER BY scorer", key
        )
        return {scorer: int(count) for scorer, count in rows}

    def put_scores(self, key: str, scorer: str, outcomes: Iterable[Outcome]) -> None:
        """Add the scores that another version of a scorer gives."""
        with self._transaction():
            self._put_scores(key, scorer, outcomes)

    # Verdicts

    def verdict(self, key: str) -> str | None:
        """Return what a judge replied under a key, or None while it was not asked."""
        rows = self._execute("SELECT reply FROM verdicts WHERE key=?", key)
        return str(rows[0][0]) if rows else None

    def put_verdicts(self, replies: Iterable[tuple[str, str, str]]) -> None:
        """Keep key, question and reply of each; the first reply under a key stays."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", list(replies))

    # Internals

    def _execute(self, statement: str, *values: object) -> list[Any]:
        with self._telling():
            return self._db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._telling():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # SQLite may have rolled back by itself, and the first error is the one to tell.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # Not the file's fault, but ours.
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: the store cannot be read or written: {error}; free some space, or "
                "put a copy of an intact store in its place, or use another one (--set store=DIR)"
            ) from error

    def _prepare(self) -> None:
        tables = self._db.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        if not tables:
            script = files("stabfw.store").joinpath("schema.sql").read_text()
            for statement in script.split(";"):
                # executescript would end the transaction that keeps a second creator out.
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            return
        found = (
            self._db.execute("SELECT value FROM meta WHERE name='schema'").fetchone()
            if ("meta",) in tables
            else None
        )
        if found != (str(SCHEMA_VERSION),):
            what = f"schema {found[0]}" if found else "no stabfw schema"
            raise StoreError(
                f"{self.path}: this store has {what}; this stabfw reads schema {SCHEMA_VERSION}. "
                "Use the stabfw that wrote it, or another directory (--set store=DIR)"
            )

    def _end(self, key: str, status: str, reason: str) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE cells SET status=?, reason=? WHERE key=?", (status, reason, key)
            )
            self._db.execute("DELETE FROM leases WHERE key=?", (key,))

    def _put_scores(self, key: str, scorer: str, outcomes: Iterable[Outcome]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    key,
                    outcome.instance_id,
                    scorer,
                    outcome.answer.value,
                    outcome.answer.kind.value,
                    outcome.answer.status.value,
                    outcome.score.value,
                    int(outcome.score.correct),
                )
                for outcome in outcomes
            ],
        )


def _prediction_row(key: str, number: int, outcome: Outcome) -> tuple[object, ...]:
    prediction = outcome.prediction
    detail = {
        "token_ids": prediction.token_ids,
        "logprobs": prediction.logprobs,
        "top": [asdict(token) for token in prediction.top],
        "options": prediction.options,
        "options_logprob": prediction.options_logprob,
        "visual_tokens": prediction.visual_tokens,
    }
    if outcome.strength is not None:
        detail["strength"] = asdict(outcome.strength)
    return (
        key,
        outcome.instance_id,
        number,
        outcome.input_hash,
        prediction.text,
        prediction.finish.value,
        prediction.error,
        prediction.margin,
        prediction.prefill_ms,
        prediction.decode_ms,
        zlib.compress(prediction.token_depths) if prediction.token_depths else b"",
        json.dumps(detail, separators=(",", ":")),
    )


def _prediction(row: tuple[Any, ...]) -> Prediction:
    _, _, text, finish, error, prefill_ms, decode_ms, depths, detail = row
    more = json.loads(detail)
    return Prediction(
        text=text,
        token_ids=tuple(more["token_ids"]),
        logprobs=tuple(more["logprobs"]),
        top=tuple(TopToken(**token) for token in more["top"]),
        finish=FinishReason(finish),
        visual_tokens=tuple(more["visual_tokens"]),
        token_depths=zlib.decompress(depths) if depths else b"",
        options=more["options"],
        options_logprob=more["options_logprob"],
        prefill_ms=prefill_ms,
        decode_ms=decode_ms,
        error=error,
    )


def _unfinished(recipe: str) -> str:
    return f"{recipe}.unfinished"


def _cell(row: tuple[Any, ...]) -> CellRow:
    key, fields, label, status, reason, weights, report, provenance, seconds = row
    return CellRow(
        key=key,
        label=label,
        fields=json.loads(fields),
        status=status,
        reason=reason,
        weights=weights,
        report=json.loads(report),
        provenance=json.loads(provenance),
        seconds=seconds,
    )


def _refuse_network(directory: Path) -> None:
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return
    real = directory.resolve()
    best, kind = Path("/"), ""
    for line in mounts:
        _, point, this_kind, *_ = line.split()
        mounted = Path(point.replace("\\040", " "))
        if real.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):
            best, kind = mounted, this_kind
    if kind in _NETWORK:
        raise StoreError(
            f"{directory}: this is on a network file system ({kind}), where SQLite can lose "
            "data; put the store on a local disk with --set store=DIR and copy it afterwards"
        )
