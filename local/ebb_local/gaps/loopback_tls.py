"""Loopback counts as TLS: a bucket policy that denies `aws:SecureTransport=false` would refuse every role here.

Behaviour decided: assumed. What never leaves the machine is as private as TLS; AWS would see https.
"""

from ministack import app


def install() -> None:
    """Report every request from this machine as carried by TLS."""
    pin = app.pin_request_origin

    def pin_as_secure(source_ip: str, secure_transport: bool) -> None:
        pin(source_ip, secure_transport or source_ip in ("127.0.0.1", "::1"))

    app.pin_request_origin = pin_as_secure
