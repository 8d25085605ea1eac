"""Damage of every kind, drawn by a seed, and what a process of limited memory makes of it."""

import io
import os
import random
import resource
import signal
import struct

import pandas
import torch

pandas.read_csv(io.StringIO("a\nb\n"))  # so that no process of a test counts the library, and its Arrow, as its own

EXTREMES = [bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8)]


def mutant(content, seed):
    """Bytes with a few of them flipped, left out, repeated, moved, or set to extremes."""
    draw, content = random.Random(seed), bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 4])):
        if not content:
            break
        # Half of the time near the beginning, where formats say how long the rest is.
        at = draw.randrange(len(content) if draw.random() < 0.5 else min(len(content), 300))
        kind, length = draw.randrange(6), draw.choice([1, 2, 8, 100, 2000])
        if kind == 0:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[at] = draw.randrange(256)
        elif kind == 2:
            del content[at : None if draw.random() < 0.3 else at + length]
        elif kind == 3:
            content[at:at] = content[at : at + length] * draw.choice([1, 2, 50])
        elif kind == 4:
            extreme = draw.choice([*EXTREMES, struct.pack(draw.choice(["<I", ">I"]), draw.randrange(1 << 32))])
            content[at : at + len(extreme)] = extreme
        else:
            piece = bytes(content[at : at + length])
            del content[at : at + length]
            to = draw.randrange(len(content) + 1)
            content[to:to] = piece
    return bytes(content)


def outcome(call, expected, gigabytes=2.0, seconds=60):
    """What a call does in a process of its own: "loaded", an expected error, another one, or the signal it died of.

    Args:
        call: without arguments.
        expected: the type of the errors that are right; their sentence must have one line.
        gigabytes: of address space it may take beside what this process has.
        seconds: it may take.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        torch.set_num_threads(1)  # the threads of the pool are not in this process, and would be waited for
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + int(gigabytes * 2**30),) * 2)
        signal.alarm(seconds)
        try:
            call()
            said = "loaded"
        except expected as error:
            said = "refused" if "\n" not in str(error) and str(error).endswith(".") else f"not a sentence: {error}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode("utf-8", "replace")[:2000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said
