"""The cache saves compiling and never stands in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from toolkit.tokenizer import build_tokenizer, cache, read_tokenizer
from toolkit.tokenizer.cache import cache_folder, cached
from toolkit.tokenizer.wordpiece import compiled, compiler


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sentence-serving" / "tokenizer"


def _make(calls, value=1):
    def make():
        calls.append(value)
        return {"a": np.arange(1000) * value}

    return make


def _cached(calls, parts=None, value=1):
    return cached(parts or {"x": "1"}, _make(calls, value), lambda made: made, lambda arrays: {"a": arrays["a"]})


def test_the_second_call_compiles_nothing(folder):
    calls = []
    first, second = _cached(calls), _cached(calls)
    assert calls == [1]
    assert first["a"].tolist() == second["a"].tolist()
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


@pytest.mark.parametrize("other", [{"x": "2"}, {"y": "1"}, {"x": "1", "y": ""}, {"x": "\ud800"}])
def test_every_part_counts(other):
    calls = []
    _cached(calls)
    _cached(calls, other)
    assert calls == [1, 1]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "folder"])
def test_a_damaged_entry_is_compiled_anew_and_replaced(folder, damage):
    calls = []
    _cached(calls)
    (path,) = folder.iterdir()
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": data[:middle], "flipped": flipped, "text": b"not a zip"}[damage])
    assert _cached(calls)["a"].tolist() == np.arange(1000).tolist()
    assert calls == [1, 1]
    if damage != "folder":
        _cached(calls)
        assert calls == [1, 1]


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    calls = []
    _cached(calls)
    assert _cached(calls)["a"][1] == 1
    assert calls == [1, 1]


def test_a_relative_cache_home_is_ignored_as_its_standard_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sentence-serving" / "tokenizer"


def _age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_entries_used_longest_ago_are_removed_while_all_are_too_large(folder, monkeypatch):
    calls = []
    _cached(calls, {"x": "first"})
    (first,) = folder.iterdir()
    monkeypatch.setattr(cache, "SIZE_LIMIT", 2 * first.stat().st_size)
    _age(first, 500)
    _cached(calls, {"x": "second"})
    (second,) = set(folder.iterdir()) - {first}
    _age(second, 400)
    _cached(calls, {"x": "first"})  # read, so used now
    _cached(calls, {"x": "third"})
    assert len(calls) == 3
    assert first.exists()
    assert not second.exists()
    assert len(list(folder.iterdir())) == 2


def test_an_entry_larger_than_the_limit_is_kept_until_the_next_one(folder, monkeypatch):
    monkeypatch.setattr(cache, "SIZE_LIMIT", 1)
    for name in ("first", "second"):
        calls = []
        _cached(calls, {"x": name})
        _cached(calls, {"x": name})
        assert calls == [1]
        assert len(list(folder.iterdir())) == 1


def test_what_a_killed_process_left_unfinished_is_removed_and_what_is_being_written_is_not(folder):
    folder.mkdir(parents=True)
    old, new, foreign = folder / "old.tmp", folder / "new.tmp", folder / "notes.txt"
    for path in (old, new, foreign):
        path.write_bytes(b"x")
    _age(old, 7200)
    _age(foreign, 7200)
    _cached([])
    assert not old.exists()
    assert new.exists()
    assert foreign.exists()


def test_processes_that_write_and_remove_at_once_get_what_they_made(tmp_path):
    code = """
import numpy as np
from toolkit.tokenizer import cache
cache.SIZE_LIMIT = 20_000
for number in range(400):
    key = number % 9
    made = cache.cached({"x": str(key)}, lambda: {"a": np.arange(1000) * key}, lambda m: m, lambda arrays: arrays)
    assert made["a"].tolist() == [i * key for i in range(1000)]
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")


def test_tables_from_the_cache_are_the_same_tables(plain, source, monkeypatch):
    spec = read_tokenizer(source(plain))
    fresh = compiled.compiled_wordpiece(spec)
    monkeypatch.setattr(compiler, "compile_wordpiece", lambda spec: pytest.fail("compiled again"))
    again = compiled.compiled_wordpiece(spec)
    assert again.ids.tolist() == fresh.ids.tolist()
    assert repr(again) == repr(fresh)
    assert (again.charmap, again.model, again.pieces) == (fresh.charmap, fresh.model, fresh.pieces)
    build_tokenizer(spec)
