#!/usr/bin/env python3
"""The example `etl`, written once more: sequential, from its description alone, no library needed.

It takes the flags that decide the answer and prints the same last line, so that any run of the
example, in one process or on many, can be checked against a program that shares no code with it:

    python3 tests/peers/etl_sequential.py --days 100 --pairs 200 --seed 42

Sums are written as loops over a fixed order (rows as in the file, destinations by their bytes):
floating-point addition depends on order, and `sum` compensates from Python 3.12 on.
"""
import argparse
import csv
import gzip
import math
import pathlib
import sys

FLIGHTS_MIN = 5  # A destination with fewer flights in three days has no mean.
DESTINATIONS_MIN = 10  # Two windows with fewer destinations in common are not compared.
UNKNOWN = 6  # The age class of a plane whose year of manufacture is not known.
DAYS_MIN = 6  # Fewer days have no two windows without a day in common.


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def known(value):
    return value not in (None, "", "NA")


def load(path):
    """The flights of a day whose delay, plane and destination are known."""
    return [
        (row["dest"], row["tailnum"], int(row["arr_delay"]))
        for row in rows(path)
        if known(row["arr_delay"]) and known(row["tailnum"]) and known(row["dest"])
    ]


def load_reference(data):
    planes = rows(data / "planes.csv.gz")
    years = {row["tailnum"]: int(row["year"]) for row in planes if known(row["year"])}
    airports = {row["faa"] for row in rows(data / "airports.csv.gz")}
    return years, airports


def add(table, key, count, amount):
    old_count, old_amount = table.get(key, (0, 0.0))
    table[key] = (old_count + count, old_amount + amount)


def process(day, reference):
    """Count and sum, by destination, of the delay beyond what planes of that age had that day."""
    years, airports = reference
    age = lambda plane: min(max((2013 - years[plane]) // 5, 0), 5) if plane in years else UNKNOWN
    by_age, by_destination = {}, {}
    for _, plane, delay in day:
        add(by_age, age(plane), 1, delay)
    baseline = {key: total / count for key, (count, total) in by_age.items()}
    for destination, plane, delay in day:
        if destination in airports:
            add(by_destination, destination, 1, delay - baseline[age(plane)])
    return by_destination


def roll(days):
    """Mean by destination over consecutive days."""
    table = {}
    for day in days:
        for destination, (count, total) in day.items():
            add(table, destination, count, total)
    return {key: total / count for key, (count, total) in table.items() if count >= FLIGHTS_MIN}


def compare(x, y):
    """Pearson's correlation over the destinations of both, or None where it has no meaning."""
    common = sorted(x.keys() & y.keys(), key=str.encode)
    xs, ys = [x[key] for key in common], [y[key] for key in common]
    if len(common) < DESTINATIONS_MIN or min(xs) == max(xs) or min(ys) == max(ys):
        return None
    total_x = total_y = 0.0
    for a, b in zip(xs, ys):
        total_x += a
        total_y += b
    mean_x, mean_y = total_x / len(xs), total_y / len(ys)
    xx = yy = xy = 0.0
    for a, b in zip(xs, ys):
        xx += (a - mean_x) * (a - mean_x)
        yy += (b - mean_y) * (b - mean_y)
        xy += (a - mean_x) * (b - mean_y)
    scale = math.sqrt(xx) * math.sqrt(yy)
    return xy / scale if scale > 0.0 else None


def split_mix_64(state):
    mask = 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def draw_pairs(window_count, pair_count, seed):
    """Pairs of windows at least three days apart."""
    random = split_mix_64(seed)
    pairs = []
    while len(pairs) < pair_count:
        i, j = next(random) % window_count, next(random) % window_count
        if abs(i - j) >= 3:
            pairs.append((i, j))
    return pairs


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=root / "client/examples/etl/data")
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    flags = parser.parse_args()

    files = sorted((flags.data / "flights").glob("*.csv.gz"))
    if not DAYS_MIN <= flags.days <= len(files):
        sys.exit(f"--days must be {DAYS_MIN} to {len(files)}, as many as {flags.data} holds")
    files = files[: flags.days]

    reference = load_reference(flags.data)
    processed = [process(load(file), reference) for file in files]
    rolled = [roll(processed[i : i + 3]) for i in range(len(processed) - 2)]
    pairs = draw_pairs(len(rolled), flags.pairs, flags.seed)
    compared = [(compare(rolled[i], rolled[j]), i, j) for i, j in pairs]
    # `max` keeps the first of equals: the pair drawn first.
    best = max((c for c in compared if c[0] is not None), key=lambda c: c[0], default=None)
    if best is None:
        sys.exit("no pair of windows can be compared")

    correlation, i, j = best
    span = lambda first: f"{files[first].name[:10]}..{files[first + 2].name[:10]}"
    print(f"{span(i)} and {span(j)}: correlation {correlation:.6f}")


if __name__ == "__main__":
    main()
