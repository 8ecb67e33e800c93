#!/usr/bin/env python3
"""Trains on the rows of a PostgreSQL table, a new connection for every pass, until its credential has changed.

    PGUSER_FILE=... PGPASSWORD_FILE=... PGHOST=... PGPORT=... stream.py PASSES

It reads both files at the start and after SIGHUP, as a long-running job would. Ends when at least PASSES passes have been
made with each of two credentials; exits 1 when a single query failed. psql is the driver, so that plain Python will do.
"""

import os
import signal
import subprocess
import sys
import time

import train

LIMIT = 100  # seconds
reread = True


def changed(*_):
    global reread
    reread = True


def credential():
    with open(os.environ["PGUSER_FILE"]) as user, open(os.environ["PGPASSWORD_FILE"]) as password:
        return user.read(), password.read()


def rows(user, password):
    """Raises when PostgreSQL refuses; its message holds no password."""
    query = "SELECT sepal_length, sepal_width, petal_length, petal_width, class FROM iris ORDER BY id"
    done = subprocess.run(
        ["psql", "-XAtq", "-F", ",", "-d", "iris", "-U", user, "-c", query],
        env={**os.environ, "PGPASSWORD": password}, capture_output=True, text=True,
        start_new_session=True)  # the signal is for this job, not for a query under way
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    lines = [line.split(",") for line in done.stdout.splitlines()]
    return [([float(v) for v in line[:4]], int(line[4])) for line in lines]


def main():
    global reread
    passes = int(sys.argv[1])
    signal.signal(signal.SIGHUP, changed)
    train.EPOCHS = 5  # of each pass
    used, failed, samples, begin = {}, 0, [], time.monotonic()
    user = password = None
    while len(used) < 2 or min(used.values()) < passes:
        if time.monotonic() - begin > LIMIT:
            sys.exit(f"stream: the credential did not change within {LIMIT} s")
        if reread:
            reread = False
            user, password = credential()
            print(f"connects as {user}", flush=True)
        try:
            samples = rows(user, password)
            used[user] = used.get(user, 0) + 1
        except RuntimeError as error:
            failed += 1
            print(f"a query failed: {error}", flush=True)
            time.sleep(0.2)
            continue
        standard = train.standardiser(samples)
        weights = train.fit([(standard(x), label) for x, label in samples], 3)
        if sum(used.values()) == passes:
            print(f"{passes} passes done", flush=True)
    reached = train.accuracy(weights, [(standard(x), label) for x, label in samples])
    total = sum(used.values())
    print(f"{total} queries, {failed} failed; credentials used: " + ", ".join(f"{u} ({n})" for u, n in used.items()))
    print(f"trained on {len(samples)} rows, accuracy {reached:.3f}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
