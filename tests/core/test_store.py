import os
import sqlite3
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    FinishReason,
    Prediction,
    Score,
    TopToken,
)
from stabfw.errors import StoreError
from stabfw.store import Outcome, Store, digest
from stabfw.store.lease import PATIENCE_S, Owner
from stabfw.store.outcomes import SCHEMA_VERSION


def outcome(instance_id: str, text: str = "red") -> Outcome:
    return Outcome(
        instance_id=instance_id,
        input_hash="h" + instance_id,
        prediction=Prediction(
            text=text,
            token_ids=(5, 2),
            logprobs=(-0.25, -0.5),
            top=(TopToken(5, "red", -0.25), TopToken(6, "blue", -2.0)),
            finish=FinishReason.STOP,
            visual_tokens=(64, 32),
            token_depths=bytes([1, 2] * 32),
            options={"yes": -0.25, "no": -1.5},
            options_logprob=-0.125,
            prefill_ms=1.5,
            decode_ms=0.5,
        ),
        answer=Answer(text, AnswerKind.SHORT),
        score=Score(1.0, True),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_outcome_comes_back_as_it_went_in(store: Store) -> None:
    assert store.claim("k", {"a": 1}, "cell")
    store.commit_batch("k", 0, "s", [outcome("1")], {"hqq": {"bits": 4}}, 0.1)
    input_hash, prediction = store.predictions("k")["1"]
    assert (input_hash, prediction) == ("h1", outcome("1").prediction)
    assert store.scores("k", "s")["1"] == (outcome("1").answer, outcome("1").score)
    row = store.cell("k")
    assert row is not None
    assert row.report == {"hqq": {"bits": 4}}


def test_what_only_the_first_batch_reported_stands(store: Store) -> None:
    store.claim("k", {}, "cell")
    store.commit_batch("k", 0, "s", [outcome("1")], {"hqq": {"rows": 1}, "prefill": {"n": 9}}, 0.1)
    store.commit_batch("k", 1, "s", [outcome("2")], {"hqq": {"rows": 2}}, 0.1)
    row = store.cell("k")
    assert row is not None
    assert row.report == {"hqq": {"rows": 2}, "prefill": {"n": 9}}


def test_batch_twice_changes_nothing(store: Store) -> None:
    store.claim("k", {}, "cell")
    store.commit_batch("k", 0, "s", [outcome("1")], {}, 0.1)
    store.commit_batch("k", 0, "s", [outcome("1", "blue"), outcome("2")], {}, 0.1)
    assert store.predictions("k").keys() == {"1"}
    assert store.predictions("k")["1"][1].text == "red"
    assert store.committed("k") == {0}


def test_batch_is_stored_whole_or_not_at_all(store: Store) -> None:
    store.claim("k", {}, "cell")
    broken = [outcome("1"), outcome("1")]
    with pytest.raises(sqlite3.IntegrityError):
        store.commit_batch("k", 0, "s", broken, {}, 0.1)
    assert not store.committed("k")
    assert not store.predictions("k")


def test_scores_of_two_scorers_stand_side_by_side(store: Store) -> None:
    store.claim("k", {}, "cell")
    store.commit_batch("k", 0, "old", [outcome("1")], {}, 0.1)
    store.put_scores("k", "new", [outcome("1", "blue")])
    assert store.scores("k", "old")["1"][0].value == "red"
    assert store.scores("k", "new")["1"][0].value == "blue"


def test_done_cell_cannot_be_claimed_and_failed_one_can(store: Store) -> None:
    assert store.claim("k", {}, "cell")
    store.finish("k")
    assert not store.claim("k", {}, "cell")
    assert store.claim("j", {}, "cell")
    store.fail("j", "no luck")
    assert store.claim("j", {}, "cell")


def test_living_process_keeps_its_cell_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stabfw.store import Store\n"
        "store = Store(Path(sys.argv[1])); print(store.claim('k', {}, 'cell'), flush=True)\n"
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with Store(tmp_path) as store:
        assert not store.claim("k", {}, "cell")
        other.kill()
        other.wait()
        assert store.claim("k", {}, "cell")


def test_process_number_used_again_is_another_owner() -> None:
    me = Owner.me()
    assert me.alive(heartbeat=0)
    assert not Owner(me.boot, me.pid, me.started - 1).alive(heartbeat=0)


def test_owner_that_cannot_be_looked_up_is_given_time() -> None:
    import time

    boot, _ = Owner.me().boot.split("/")
    stranger = Owner(f"{boot}/pid:[1]", os.getpid(), 0)
    assert stranger.alive(time.time())
    assert not stranger.alive(time.time() - PATIENCE_S - 1)
    assert not Owner("another boot/pid:[1]", os.getpid(), 0).alive(time.time())


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    Store(tmp_path).close()

    def write(name: str) -> None:
        with Store(tmp_path) as store:
            store.claim(name, {}, name)
            for number in range(10):
                store.commit_batch(name, number, "s", [outcome(f"{number}")], {}, 0.1)
            store.finish(name)

    threads = [threading.Thread(target=write, args=(f"cell {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store(tmp_path) as store:
        assert [row.status for row in store.cells()] == ["done"] * 6
        assert all(len(store.predictions(f"cell {i}")) == 10 for i in range(6))


def test_store_of_another_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    db = sqlite3.connect(tmp_path / "outcomes.sqlite")
    db.execute("UPDATE meta SET value='99'")
    db.commit()
    with pytest.raises(
        StoreError, match=f"has schema 99; this stabfw reads schema {SCHEMA_VERSION}"
    ):
        Store(tmp_path)


@pytest.mark.parametrize("content", [b"not a database at all, only text" * 40, b"SQLite form"])
def test_file_that_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "outcomes.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match="cannot use this directory as a store"):
        Store(tmp_path)
    assert (tmp_path / "outcomes.sqlite").read_bytes() == content


def test_database_of_something_else_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "outcomes.sqlite")
    db.execute("CREATE TABLE accounts (id)")
    db.commit()
    with pytest.raises(StoreError, match="has no stabfw schema"):
        Store(tmp_path)


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose another one"):
        Store(tmp_path / "file" / "store")


def test_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"proc /proc proc rw 0 0\n/dev/x / ext4 rw 0 0\nhost:/x {tmp_path} nfs4 rw 0 0\n"
    original = Path.read_text

    def read_text(path: Path, *args: str, **kwargs: str) -> str:
        return mounts if str(path) == "/proc/self/mounts" else original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(StoreError, match=r"network file system \(nfs4\)"):
        Store(tmp_path / "store")


def test_key_does_not_depend_on_the_order_of_fields() -> None:
    assert digest({"a": [1, {"b": 2, "c": 3}]}) == digest({"a": [1, {"c": 3, "b": 2}]})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_answer_status_survives(store: Store) -> None:
    store.claim("k", {}, "cell")
    invalid = Outcome(
        "1",
        "h",
        Prediction("?"),
        Answer(None, AnswerKind.YES_NO, AnswerStatus.INVALID),
        Score(0, False),
    )
    store.commit_batch("k", 0, "s", [invalid], {}, 0.1)
    assert store.scores("k", "s")["1"][0] == invalid.answer


class TestArtefacts:
    def test_first_one_of_a_recipe_stays(self, store: Store) -> None:
        assert store.artefact("r") is store.artefact_digest("r") is None
        first = store.put_artefact("r", b"first")
        assert first == sha256(b"first").hexdigest()
        assert store.put_artefact("r", b"second") == first
        assert store.artefact("r") == b"first"
        assert store.artefact_digest("r") == first

    def test_unfinished_is_kept_until_there_is_an_artefact(self, store: Store) -> None:
        assert store.unfinished("r") is None
        for state in (b"step 1", b"step 2"):
            store.put_unfinished("r", state)
            assert store.unfinished("r") == state
        assert store.unfinished("other") is None
        store.put_artefact("r", b"done")
        assert store.unfinished("r") is None

    def test_lost_file_is_made_again(self, store: Store) -> None:
        digest = store.put_artefact("r", b"data")
        (store.directory / "artefacts" / digest).unlink()
        assert store.artefact_digest("r") is None
        assert store.put_artefact("r", b"other") != digest
        assert store.artefact("r") == b"other"

    def test_directory_in_its_place_is_one_error(self, store: Store) -> None:
        store.put_artefact("s", b"")
        (store.directory / "artefacts" / "r.unfinished").mkdir()
        with pytest.raises(StoreError, match="cannot be read"):
            store.unfinished("r")
        with pytest.raises(StoreError, match=r"cannot be written: .*; free some space"):
            store.put_unfinished("r", b"state")
