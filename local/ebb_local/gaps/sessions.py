"""Sessions of roles are issued by several threads at once; MiniStack looks through them as if there were one.

It drops what has expired whenever a session is issued, and walks over the store itself for that: a session that another
thread issues meanwhile ends the walk with `dictionary changed size during iteration`, and with it what was to hold the
session. Each new worker of a function and each container of a model gets one, so that it happens where many start.
"""

from ministack.services import sts


def install() -> None:
    """Let the walk go over a copy."""
    sts._evict_expired_sessions = forget_expired


def forget_expired() -> None:
    """Drop the sessions whose time is over."""
    for key, session in sts._sessions.copy().items():
        if sts._session_expired(session):
            sts._sessions.pop(key, None)
