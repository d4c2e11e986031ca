"""The clock of the embedded cloud: it runs like the real one, and it can be put forward.

In the server's process the wall clock (`time.time()`, `datetime.now()`) is the real one plus an offset, for MiniStack
and for this package alike. What measures real work stays real: the monotonic clock, functions, jobs and containers
(processes of their own), signatures and the life of credentials (`gaps/clock.py`).

    clock.now()                          seconds since the epoch, in virtual time
    clock.every(60, "metrics", publish)  called on each virtual minute, also on each one that an advance passes
    clock.when("schedules", due, fire)   `fire()` is called when virtual time reaches what `due()` says by then
    clock.wait(300, until=ready)         sleep 300 virtual seconds, or until `ready()`; ends early with an advance
    clock.after(300, function)           call a function once, unless what this returns is called before
    clock.busy("jobs", names)            an advance waits while `names()` says that something works
    clock.note("alarm", text)            tells whoever advances what happened
    clock.advance(7200)                  put it forward, one deadline after the other

Before `start` (in tests of single modules) all of it works on the real clock and `advance` is refused.
"""

import itertools
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_REACTION_S = 0.02  # real: how long what a step set off may take to show, where nothing counts it from the start
_LOOK_EVERY_S = 0.01  # real: between two looks at what works
_UNTIL_EVERY_S = 0.1  # real: between two looks at a wait's own condition
_LONGEST_WAIT_S = 1.0  # real: how late a deadline may be noticed that somebody else moved
_KEPT_NOTES = 10_000
_logger = logging.getLogger("ebb.clock")


class ClockError(Exception):
    """The clock cannot be advanced now; the text says why."""


@dataclass(frozen=True)
class Note:
    """Something that happened, for whoever advances the clock."""

    at: float
    kind: str
    text: str


@dataclass
class _Task:
    """A function that is called at each multiple of `seconds`."""

    seconds: float
    name: str
    function: Callable[[], Any]
    last: bool
    due: float


@dataclass
class _Appointment:
    """A function that is called when the moment has come that `due` names."""

    name: str
    due: Callable[[], float]
    function: Callable[[], Any]


@dataclass
class _Sleeper:
    """One wait: until when, and whether a step has ended it."""

    deadline: float
    over: bool = False


class Meter:
    """How many threads of one piece of work are not waiting. Each wait takes one off, its end puts it back."""

    def __init__(self) -> None:
        self.at_work = 1
        self.branches = 0


_changed = threading.Condition()
_advancing = threading.Lock()
_ticking = threading.RLock()
_tasks: list[_Task] = []
_appointments: list[_Appointment] = []
_sleepers: dict[int, tuple[_Sleeper, Meter | None]] = {}
_numbers = itertools.count()
_watchers: dict[str, Callable[[], list[str]]] = {}
_notes: deque[tuple[int, Note]] = deque(maxlen=_KEPT_NOTES)
_stirred = threading.Event()
_traveller: Any = None
_offset_file: Path | None = None
_offset_s = 0.0


def start(home: Path) -> None:
    """Take over this process's wall clock, where the home left it, and call what is due from now on."""
    global _traveller, _offset_file, _offset_s
    import time_machine

    _offset_file = home / "clock.json"
    _offset_s = _read_offset(_offset_file)
    # Given as a number: with a time zone it would set the process's TZ.
    _traveller = time_machine.travel(time.time() + _offset_s, tick=True).start()
    _traveller.time_ns()  # it begins to tick with the first look
    threading.Thread(target=_tick_forever, name="ebb-clock", daemon=True).start()


def now() -> float:
    """Return the cloud's time, in seconds since the epoch."""
    return time.time()


def real_now() -> float:
    """Return this machine's time, in seconds since the epoch."""
    return time.time() - _offset_s


def offset_s() -> float:
    """Return how far the cloud's clock is ahead of this machine's."""
    return _offset_s


def every(seconds: float, name: str, function: Callable[[], Any], *, last: bool = False) -> None:
    """Call `function` at each multiple of `seconds` of virtual time; a name that is there already is replaced.

    Keep it quick: whoever advances the clock waits for it. `last`: after all others of the same moment (what judges
    comes after what publishes). An exception is logged and the next call comes all the same.
    """
    with _changed:
        _tasks[:] = [task for task in _tasks if task.name != name]
        _tasks.append(_Task(seconds, name, function, last, _next_multiple(now(), seconds)))
        _tasks.sort(key=lambda task: task.last)
        _changed.notify_all()


def in_real_time(seconds: float, name: str, function: Callable[[], Any]) -> None:
    """Call `function` every so many real seconds while nobody advances the clock: what must not wait for a minute."""

    def loop() -> None:
        while True:
            time.sleep(seconds)
            if _advancing.acquire(blocking=False):
                try:
                    with _ticking:
                        _guarded(name, function, None)
                finally:
                    _advancing.release()

    threading.Thread(target=loop, name=f"ebb-{name.replace(' ', '-')}", daemon=True).start()


def when(name: str, due: Callable[[], float], function: Callable[[], Any]) -> None:
    """Call `function` whenever virtual time has reached `due()`, which moves on with the call.

    `due` is asked often: it has to be quick, and answers infinity when there is nothing to come.
    """
    with _changed:
        _appointments[:] = [known for known in _appointments if known.name != name]
        _appointments.append(_Appointment(name, due, function))
        _changed.notify_all()


def after(seconds: float, function: Callable[[], Any], name: str = "timer") -> Callable[[], None]:
    """Call `function` once when `seconds` of virtual time have passed; return what cancels it."""
    moment = now() + seconds

    def cancel() -> None:
        with _changed:
            if appointment in _appointments:
                _appointments.remove(appointment)

    def call() -> None:
        cancel()
        function()

    appointment = _Appointment(name, lambda: moment, call)
    with _changed:
        _appointments.append(appointment)
        _changed.notify_all()
    return cancel


def wait(seconds: float, until: Callable[[], Any] | None = None, *, meter: Meter | None = None) -> bool:
    """Sleep for `seconds` of virtual time; return True as soon as `until()` is true, else False at the end."""
    sleeper = _Sleeper(now() + seconds)
    number = next(_numbers)
    with _changed:
        _sleepers[number] = (sleeper, meter)
        if meter:
            meter.at_work -= 1
        try:
            while True:
                if until is not None and until():
                    return True
                left_s = sleeper.deadline - now()
                if left_s <= 0:
                    return False
                _changed.wait(left_s if until is None else min(left_s, _UNTIL_EVERY_S))
        finally:
            del _sleepers[number]
            if meter and not sleeper.over:
                meter.at_work += 1
            _stirred.set()


@contextmanager
def standing_by(meter: Meter | None) -> Iterator[None]:
    """Say that the block only waits for other work, which is counted on its own."""
    with _changed:
        if meter:
            meter.at_work -= 1
    try:
        yield
    finally:
        with _changed:
            if meter:
                meter.at_work += 1
        _stirred.set()


def notify() -> None:
    """Let every wait look at its condition again."""
    with _changed:
        _changed.notify_all()


def stir() -> None:
    """Say that something was set off that will show as work in a moment: an advance waits for it."""
    _stirred.set()


def busy(name: str, what: Callable[[], list[str]]) -> None:
    """Register what an advance waits for: `what()` names all that works right now."""
    _watchers[name] = what


def working() -> list[str]:
    """Return the names of all that works right now."""
    return [f"{name} {thing}" for name, what in list(_watchers.items()) for thing in what()]


def note(kind: str, text: str) -> None:
    """Keep what happened for whoever advances the clock."""
    _notes.append((next(_numbers), Note(round(now(), 3), kind, text)))
    _stirred.set()


def notes(after: int = -1) -> tuple[int, list[dict[str, Any]]]:
    """Return what was noted after a position, and the position that is reached."""
    found = [(number, told) for number, told in list(_notes) if number > after]
    return (found[-1][0] if found else after), [asdict(told) for _, told in found]


def advance(seconds: float, *, budget_s: float | None = None, patience_s: float = 600.0) -> float:
    """Put the clock forward, from deadline to deadline and only while nothing works; return how far it went.

    It stops on a deadline when `budget_s` of real time are spent, so that a long way can be gone in several calls.
    Raises: ClockError when the clock is not ours, or when something works for longer than `patience_s` (real).
    """
    if _traveller is None:
        raise ClockError("this process runs on the real clock")
    began, begun = time.monotonic(), now()
    target = begun + seconds
    if not _advancing.acquire(timeout=patience_s):
        raise ClockError("the clock is being advanced already")
    try:
        _settle(patience_s)
        while (left_s := target - now()) > 0:
            _step(min(left_s, max(0.0, _next_deadline() - now())))
            _settle(patience_s)
            if budget_s is not None and time.monotonic() - began > budget_s:
                break
    finally:
        _advancing.release()
    return now() - begun


def _step(seconds: float) -> None:
    """Shift the clock, end the waits that are over, and call what is due."""
    global _offset_s
    with _ticking:
        with _changed:
            _write_offset(_offset_s + seconds)  # before: what is stored meanwhile must not lie in the future
            _offset_s += seconds
            _traveller.shift(seconds)
            for sleeper, meter in _sleepers.values():
                if sleeper.deadline <= now() and not sleeper.over:
                    sleeper.over = True  # at work from this moment, also before its thread runs
                    if meter:
                        meter.at_work += 1
                    _stirred.set()
            _changed.notify_all()
        _call_due()


def _next_deadline(*, waits: bool = True) -> float:
    with _changed:
        sleepers = [sleeper.deadline for sleeper, _ in _sleepers.values()] if waits else []
        appointments = list(_appointments)
        tasks = [task.due for task in _tasks]
    dues = [_guarded(each.name, each.due, float("inf")) for each in appointments]
    return min([*sleepers, *tasks, *dues, now() + 86_400.0])


def _settle(patience_s: float) -> None:
    """Wait until nothing works and nothing was set off that is about to."""
    deadline = time.monotonic() + patience_s
    while at_work := working() or _stirred.is_set():
        if time.monotonic() > deadline:
            raise ClockError(f"the clock waits for what works: {', '.join(working()[:5]) or 'requests'}")
        if at_work is True:
            _stirred.clear()
            time.sleep(_REACTION_S)
        else:
            _stirred.set()  # what ends may set off the next
            time.sleep(_LOOK_EVERY_S)


def _call_due() -> None:
    with _ticking:
        moment = now()
        with _changed:
            tasks = [task for task in _tasks if task.due <= moment]
            appointments = list(_appointments)
            for task in tasks:
                task.due = _next_multiple(moment, task.seconds)
        kept = [each for each in appointments if _guarded(each.name, each.due, float("inf")) <= moment]
        first = [task for task in tasks if not task.last]
        last = [task for task in tasks if task.last]
        named = [(each.name, each.function) for each in first]
        named += [(each.name, each.function) for each in kept]
        named += [(each.name, each.function) for each in last]
        for name, function in named:
            _guarded(name, function, None)


def _guarded(name: str, function: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return function()
    except Exception:
        _logger.exception("%s failed", name)
        return otherwise


def _tick_forever() -> None:
    while True:
        left_s = _next_deadline(waits=False) - now()
        if left_s > 0:
            with _changed:
                _changed.wait(min(left_s, _LONGEST_WAIT_S))
        _call_due()


def _next_multiple(moment: float, seconds: float) -> float:
    return (moment // seconds + 1) * seconds


def _read_offset(path: Path) -> float:
    try:
        return float(json.loads(path.read_text())["offset_s"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _write_offset(offset: float) -> None:
    if _offset_file is not None:
        draft = _offset_file.with_suffix(".tmp")
        draft.write_text(json.dumps({"offset_s": offset}))
        draft.replace(_offset_file)
