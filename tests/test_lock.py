"""The lock of a folder: one worker at a time, taken over from the dead, whoever and wherever they were."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ltx_jax import lock
from ltx_jax.errors import UserError
from ltx_jax.lock import NAME, working_in

HOLD = """
import sys, time
from pathlib import Path
from ltx_jax.lock import working_in
with working_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    environment = os.environ | {"PYTHONPATH": str(Path(lock.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_worker_is_refused_and_touches_nothing(tmp_path, holder):
    before = (tmp_path / NAME).read_bytes()
    with (
        pytest.raises(UserError, match=f"in use: process {holder.pid} on .* has worked there since"),
        working_in(tmp_path),
    ):
        raise AssertionError("it must not begin")
    assert [p.name for p in tmp_path.iterdir()] == [NAME] and (tmp_path / NAME).read_bytes() == before


def test_a_killed_worker_is_followed_at_once_and_leaves_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with working_in(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_the_number_of_a_dead_process_that_was_given_anew_is_no_owner(tmp_path):
    (tmp_path / NAME).write_text(json.dumps(lock._owner("x") | {"born": "1"}))
    with working_in(tmp_path):
        pass


@pytest.mark.parametrize("content", [None, "", '{"host": "h'], ids=["elsewhere", "empty", "cut off"])
def test_without_a_sign_of_life_an_owner_elsewhere_is_gone(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "SILENT", 0.3)
    other = lock._owner("x") | {"machine": "another", "host": "another"}
    (tmp_path / NAME).write_text(json.dumps(other) if content is None else content)
    with working_in(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_an_owner_elsewhere_that_shows_life_is_waited_for_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "_now", lambda: f"{time.monotonic():030.9f}")
    other = lock._owner("x") | {"machine": "another", "host": "another"}
    (tmp_path / NAME).write_text(json.dumps(other))
    stop = threading.Event()
    heart = threading.Thread(target=lock._beat, args=(tmp_path / NAME, "x", stop))
    heart.start()
    begun = time.monotonic()
    with pytest.raises(UserError, match="on another has worked"), working_in(tmp_path):
        raise AssertionError("it must not begin")
    stop.set()
    heart.join()
    assert time.monotonic() - begun < lock.SILENT / 2


def test_of_many_that_take_over_one_wins(tmp_path):
    (tmp_path / NAME).write_text(json.dumps(lock._owner("x") | {"born": "1"}))
    inside, refused = [], []

    def work():
        try:
            with working_in(tmp_path):
                inside.append(1)
                time.sleep(0.5)
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(inside) == 1 and len(refused) == 7
