"""Start a command without a network but with loopback, as a container under network isolation has it.

`unshare --user --map-root-user --net -- python isolated.py COMMAND ...`: a new network namespace has loopback down,
and a job that tries its own model over 127.0.0.1 would not reach it.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/mkt-algo-model-internet-free.html (no inbound or outbound
network calls; processes inside the container still talk to each other).
"""

import fcntl
import os
import socket
import struct
import sys

SIOCSIFFLAGS = 0x8914  # linux/sockios.h
IFF_UP = 0x1  # linux/if.h


def raise_loopback() -> None:
    """Set the interface `lo` of this network namespace up; needs the namespace's own root."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


if __name__ == "__main__":
    raise_loopback()
    os.execvp(sys.argv[1], sys.argv[1:])
