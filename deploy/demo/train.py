#!/usr/bin/env python3
"""Trains a softmax regression on the iris data of a server that demands a password.

    DATA_PASSWORD=... train.py URL

The same data gives the same model, down to its digest. Exits 1 when the server refuses or the model is worse than
ACCURACY on rows it never saw. Standard library only.
"""

import base64
import csv
import hashlib
import io
import math
import os
import random
import struct
import sys
import urllib.error
import urllib.request

USER = "training"
SEED = 20
EPOCHS = 400
RATE = 0.5
PENALTY = 1e-3
ACCURACY = 0.9


def fetch(url, password):
    credentials = base64.b64encode(f"{USER}:{password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": "Basic " + credentials})
    # The data source is on this machine: a proxy of the surroundings would only be told the password.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        sys.exit(f"train: the data source refused: {error.code} {error.reason}")
    except OSError as error:
        sys.exit(f"train: the data source cannot be reached: {getattr(error, 'reason', error)}")


def parse(text):
    rows = list(csv.reader(io.StringIO(text)))
    classes = rows[0][2:]
    return [([float(x) for x in row[:-1]], int(row[-1])) for row in rows[1:]], classes


def split(samples, classes):
    """A fifth of every class, drawn with a fixed seed, is kept for the test."""
    train, test = [], []
    rng = random.Random(SEED)
    for label in range(len(classes)):
        group = [sample for sample in samples if sample[1] == label]
        rng.shuffle(group)
        cut = len(group) // 5
        test += group[:cut]
        train += group[cut:]
    return train, test


def standardiser(samples):
    columns = list(zip(*(x for x, _ in samples)))
    mean = [sum(column) / len(column) for column in columns]
    deviation = [math.sqrt(sum((v - m) ** 2 for v in column) / len(column)) for column, m in zip(columns, mean)]
    return lambda x: [(v - m) / d for v, m, d in zip(x, mean, deviation)] + [1.0]


def softmax(weights, x):
    scores = [sum(w * v for w, v in zip(row, x)) for row in weights]
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def fit(samples, classes):
    """Full-batch gradient descent on the cross entropy with a small L2 penalty, from zero."""
    weights = [[0.0] * len(samples[0][0]) for _ in range(classes)]
    for _ in range(EPOCHS):
        gradient = [[PENALTY * w for w in row] for row in weights]
        for x, label in samples:
            for k, p in enumerate(softmax(weights, x)):
                error = (p - (k == label)) / len(samples)
                for j, v in enumerate(x):
                    gradient[k][j] += error * v
        for row, steps in zip(weights, gradient):
            for j, step in enumerate(steps):
                row[j] -= RATE * step
    return weights


def accuracy(weights, samples):
    hits = 0
    for x, label in samples:
        p = softmax(weights, x)
        hits += p.index(max(p)) == label
    return hits / len(samples)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: DATA_PASSWORD=... train.py URL")
    password = os.environ.get("DATA_PASSWORD", "")
    if not password:
        sys.exit("train: DATA_PASSWORD is not set; run me by: hizo run --env DATA_PASSWORD=hizo://... -- train.py URL")
    samples, classes = parse(fetch(sys.argv[1], password))
    train, test = split(samples, classes)
    standard = standardiser(train)
    train = [(standard(x), label) for x, label in train]
    test = [(standard(x), label) for x, label in test]
    weights = fit(train, len(classes))
    flat = [w for row in weights for w in row]
    digest = hashlib.sha256(struct.pack(f"<{len(flat)}d", *flat)).hexdigest()[:12]
    reached = accuracy(weights, test)
    print(f"fetched {len(samples)} rows of {len(classes)} classes ({', '.join(classes)})")
    print(f"trained on {len(train)}: accuracy {accuracy(weights, train):.3f}")
    print(f"tested on {len(test)}: accuracy {reached:.3f}")
    print(f"model {digest}")
    if reached < ACCURACY:
        sys.exit(f"train: accuracy {reached:.3f} is below {ACCURACY}")


if __name__ == "__main__":
    main()
