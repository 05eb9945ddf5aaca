# SPDX-FileCopyrightText: 2026 The oauth_session authors
# SPDX-License-Identifier: MIT
"""A TokenSource against a model of what it promises: any order of calls, clocks, failures, rejects, clears and threads.

python3 -m pytest .ci/properties                            the same examples each time
PROPERTY_EXAMPLES=5000 python3 -m pytest .ci/properties     a search among others
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path

# Before the import: hypothesis keeps its Unicode tables in a folder, which would be `.hypothesis` in the repository.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis"))
sys.path.insert(0, str(Path(__file__).absolute().parents[2]))

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import oauth_session
from oauth_session import OAuthError, OAuthServerError, Token, TokenSource

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "0"))
PATIENCE = 60  # seconds after which a wait has failed
DEADLINE = 32.0  # seconds after which a fetch is dead
LONGEST_PAUSE = 60.0  # seconds
LONG_AGO = (0.0, -1e9)
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 5.0, 10.0, 31.0, 61.0, 301.0, 3400.0, 86400.0])


class Clock:
    """Stands in for the `time` module: both clocks move only by hand."""

    def __init__(self):
        self.wall, self.steady = 2.0**30, 2.0**10

    def time(self):
        return self.wall

    def monotonic(self):
        return self.steady

    def sleep(self, seconds):
        self.wall, self.steady = self.wall + seconds, self.steady + seconds


class Fetch:
    """One call of the fetch callable. It has begun, and ends when it is told its result."""

    def __init__(self, machine):
        self.epoch, self.began, self.result, self.forced = machine.epoch, machine.now(), None, False
        self.go, self.thread = threading.Event(), threading.current_thread()


class Caller:
    """A thread that asks for a token, or for another one than the refused."""

    def __init__(self, machine, refused=""):
        self.source, self.refused, self.epoch, self.outcome = machine.source, refused, machine.epoch, None
        self.may_be_same = machine.may_be_same()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.outcome = self.source.reject(self.refused) if self.refused else self.source.token()
        except OAuthError as error:
            self.outcome = error


class Cache:
    value = None

    def get(self, key):
        return self.value

    def set(self, key, value, seconds):
        self.value = value


class Life(RuleBasedStateMachine):
    cache = None

    def __init__(self):
        super().__init__()
        self.clock, self.real = Clock(), oauth_session.time
        oauth_session.time = self.clock
        self.under_way, self.callers, self.tokens, self.begun, self.wrong = [], [], {}, 0, []
        self.forget()
        self.epoch, self.is_over = 0, False
        self.source = TokenSource(self.fetch, cache=self.cache, cache_key="k" if self.cache else None)

    def forget(self):
        self.kept, self.forced_at, self.failed, self.asked = "", LONG_AGO, LONG_AGO, (LONG_AGO, 0.0)

    def teardown(self):
        self.is_over = True  # those who wait may start another fetch
        for fetch in self.under_way:
            fetch.result = OAuthServerError("the end")
            fetch.go.set()
        for thread in [one.thread for one in self.callers + self.under_way]:
            thread.join(PATIENCE)
        oauth_session.time = self.real

    # -- the model

    def now(self):
        return self.clock.wall, self.clock.steady

    def since(self, then):
        return max(self.clock.wall - then[0], self.clock.steady - then[1])

    def may_be_same(self):
        """Whether a refused token may be handed out again: within a minute, or in a pause after a failure."""
        in_pause = self.since(self.failed) < LONGEST_PAUSE or self.since(self.asked[0]) < self.asked[1]
        return in_pause or self.since(self.forced_at) < 60.0

    def lives(self, token):
        began, life, _ = self.tokens[token]
        return self.since(began) < life

    def has_nearly_ended(self, token):
        began, life, _ = self.tokens[token]
        return self.since(began) >= life - min(10.0, life / 10)

    def alive(self):
        return [one for one in self.under_way if one.epoch == self.epoch and self.since(one.began) < DEADLINE]

    def fetch(self):
        if self.is_over:
            raise OAuthServerError("the end")
        mine = Fetch(self)
        self.wrong += ["two fetches at once"] if self.alive() else []
        self.wrong += ["no pause"] if self.since(self.asked[0]) < self.asked[1] else []
        self.begun += 1
        self.under_way.append(mine)
        assert mine.go.wait(PATIENCE)
        if isinstance(mine.result, Exception):
            raise mine.result
        return mine.result

    def settle(self):
        """Wait until each caller has an answer or waits for a fetch, and each thread is in its fetch."""
        for _ in range(PATIENCE * 1000):
            # In this order: a caller who waits has started the thread that he waits for.
            settled = all(one.outcome is not None or waits(one.thread) for one in self.callers)
            threads = {one for one in threading.enumerate() if one.name == "oauth_session token request"}
            if settled and threads <= {one.thread for one in self.under_way}:
                break
            threading.Event().wait(0.001)
        else:
            raise AssertionError("a caller neither waits for a fetch nor comes back")
        assert self.wrong == []
        for caller in [one for one in self.callers if one.outcome is not None]:
            self.callers.remove(caller)
            if not isinstance(caller.outcome, OAuthError):
                token = caller.outcome.access_token
                if token == caller.refused:
                    assert caller.may_be_same or self.may_be_same(), "a refused token"
                else:
                    assert self.lives(token), "an expired token"
                    assert self.tokens[token][2] >= caller.epoch, "a token from before clear()"

    def ask(self, count=1, refused=""):
        before, callers = self.begun, [Caller(self, refused) for _ in range(count)]
        self.callers += callers
        self.settle()
        assert self.begun <= before + 1, "a fetch for more than one of them"
        assert self.alive() or not set(callers) & set(self.callers), "they wait for nothing"
        return self.begun > before

    def end(self, which, result):
        fetch = self.under_way[which % len(self.under_way)]
        counts = fetch in self.alive()
        self.under_way.remove(fetch)
        if counts and fetch.forced:
            self.forced_at = fetch.began
        if isinstance(result, Token):
            self.tokens[result.access_token] = fetch.began, result.raw["expires_in"], fetch.epoch
            if counts and self.lives(result.access_token):
                self.kept, self.failed, self.asked = result.access_token, LONG_AGO, (LONG_AGO, 0.0)
        elif counts:
            self.failed = self.now()
            if result.retry_after:
                self.asked = self.now(), min(result.retry_after, 300.0)
        fetch.result = result
        fetch.go.set()
        fetch.thread.join(PATIENCE)
        self.settle()

    # -- what happens

    @rule(count=st.sampled_from([1, 1, 2, 6]))
    def token(self, count):
        # The next caller renews a token that is due when it comes from the cache: of several, any may be that.
        self.ask(1 if self.cache else count)

    @precondition(lambda self: self.tokens)
    @rule(back=st.integers(1, 2), count=st.sampled_from([1, 1, 4]))
    def reject(self, back, count):
        refused, may_force = list(self.tokens)[-back:][0], not self.since(self.forced_at) < 60.0
        if self.ask(count, refused):
            assert may_force or refused != self.kept or self.has_nearly_ended(refused), "the second in a minute"
            self.under_way[-1].forced = True

    @rule(wall=SECONDS, steady=SECONDS | st.none())
    def time_passes(self, wall, steady):
        self.clock.wall += wall
        self.clock.steady += wall if steady is None or self.cache else steady

    @precondition(lambda self: not self.cache)
    @rule(seconds=SECONDS)
    def wall_clock_is_set_back(self, seconds):
        self.clock.wall -= seconds

    @rule()
    def clear(self):
        self.source.clear()
        self.forget()
        self.epoch += 1

    @precondition(lambda self: self.under_way)
    @rule(life=st.sampled_from([1.0, 20.0, 600.0, 3600.0]), which=st.integers(0, 3))
    def fetch_succeeds(self, life, which):
        ends = self.under_way[which % len(self.under_way)].began[0] + life
        self.end(which, Token(f"t-{len(self.tokens)}", expires_at=ends, raw={"expires_in": life}))

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 3), asked=st.sampled_from([None, None, 5.0, 300.0, 1e6]))
    def fetch_fails(self, which, asked):
        self.end(which, OAuthServerError("it is sick", status=503, retry_after=asked))


class SharedLife(Life):
    """The same with a cache, into which other processes write."""

    def __init__(self):
        self.cache, self.cleared = Cache(), 0.0
        super().__init__()

    @rule(life=st.sampled_from([20.0, 3600.0]), ago=st.sampled_from([0.0, 15.0]))
    def another_process_writes(self, life, ago):
        began = tuple(one - ago for one in self.now())
        epoch = self.epoch if began[0] > self.cleared else self.epoch - 1
        self.tokens[f"t-{len(self.tokens)}"] = began, life, epoch
        entry = {"access_token": list(self.tokens)[-1], "expires_in": life, "obtained_at": began[0]}
        self.cache.value = json.dumps(entry)

    @rule()
    def clear(self):
        super().clear()
        self.cleared = self.clock.wall


def waits(thread):
    """Whether it is blocked in an Event below oauth_session.py, which is not that of a thread it starts."""
    frame, files, blocked = sys._current_frames().get(thread.ident), [], False
    while frame is not None:
        files.append(frame.f_code.co_filename)
        if frame.f_code is threading.Thread.start.__code__:
            return False
        if frame.f_code is threading.Event.wait.__code__:
            blocked = not frame.f_locals["self"].is_set()
        frame = frame.f_back
    return blocked and oauth_session.__file__ in files


slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
for machine in (Life, SharedLife):
    machine.TestCase.settings = settings(
        max_examples=EXAMPLES or 50, stateful_step_count=40, derandomize=not EXAMPLES, database=None, deadline=None,
        suppress_health_check=slow,
    )  # fmt: skip
TestLife, TestSharedLife = Life.TestCase, SharedLife.TestCase
