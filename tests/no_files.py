"""What may stand in the place of a file, and is none that can be read to its end."""

import os
import socket

WORLD = 1 << 40  # bytes: more than any file of a test can have, and than there is memory


def to_pipe(path):
    os.mkfifo(path)


def to_device(path):
    path.symlink_to("/dev/zero")


def to_itself(path):
    path.symlink_to(path.name)


def to_socket(path):
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}"[:107])
    os.close(folder)


def to_hole(path):
    path.touch()
    os.truncate(path, WORLD)


NO_FILES = {"pipe": to_pipe, "device": to_device, "link": to_itself, "socket": to_socket, "hole": to_hole}
