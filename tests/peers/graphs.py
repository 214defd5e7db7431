"""The functions and the graphs: the same for every system, and the same as in tests/src/bench.

A graph is built through `call(function, *arguments)`, which each driver makes a node of its system:
arguments are plain values or such nodes, never lists of them. What a graph computes is the sum of its
outputs, and known before.
"""
import gzip
import json
import random
import time
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

MIB = 1 << 20
SEED = 42  # Of the ETL graph's durations; its pairs are drawn from the next.
TRACE_BYTES_MAX = 64 * MIB  # The most that one task of a trace returns.
SLEEPING = ("etlsleep", "trace")  # Workloads whose tasks have durations: 20 slots instead of 2.


def noop(number):
    return number & 1


def inc(number):
    return number + 1


def add(a, b):
    return a + b


def total(*numbers):
    return sum(numbers)


# The ETL graph. Integers flow along its edges, so that a wrong graph gives a wrong sum.


def load(seconds, file):
    time.sleep(seconds) if seconds else None
    return file


def reference(seconds):
    time.sleep(seconds) if seconds else None
    return 1


def process(seconds, file, reference):
    time.sleep(seconds) if seconds else None
    return file + reference


def roll(seconds, a, b, c):
    time.sleep(seconds) if seconds else None
    return a + b + c


def compare(seconds, a, b):
    time.sleep(seconds) if seconds else None
    return a - b


def reduce(seconds, *differences):
    time.sleep(seconds) if seconds else None
    return sum(differences)


# Large results: arrays of bytes, which the systems that know numpy pass on without a copy.


def produce(value, count):
    return np.full(count, value, dtype=np.uint8)


def split(whole, number, count):
    return whole[number * count : (number + 1) * count]


def concat(*parts):
    return int(np.concatenate(parts).nbytes)


def length(array):
    return int(array.nbytes)


def step(seconds, count, *arrays):
    """A task of a recorded workflow: each byte is one more than the sum of the inputs' first ones."""
    time.sleep(seconds) if seconds else None
    value = (1 + sum(int(array[0]) for array in arrays)) % 251
    return np.full(max(count, 8), value, dtype=np.uint8)


def ends(*arrays):
    return sum(int(array[0]) for array in arrays)


FUNCTIONS = (noop, inc, add, total, load, reference, process, roll, compare, reduce)
FUNCTIONS += (produce, split, concat, length, step, ends)
# Those whose first argument is how long they take.
TIMED = (load, reference, process, roll, compare, reduce, step)


@dataclass
class Graph:
    """`build(call)` makes the nodes of the outputs."""

    build: Callable
    tasks: int
    expected: int
    mib: Optional[int] = None  # What goes from tasks to others, where the workload is about that.


def noops(count):
    return Graph(lambda call: [call(noop, i) for i in range(count)], count, count // 2)


def chain(count):
    def build(call):
        last = 0
        for _ in range(count):
            last = call(inc, last)
        return [last]

    return Graph(build, count, count)


def tree(leaves):
    def build(call):
        row = [call(noop, i) for i in range(leaves)]
        while len(row) > 1:
            row = [call(add, *row[i : i + 2]) for i in range(0, len(row), 2)]
        return row

    return Graph(build, 2 * leaves - 1, leaves // 2)


def etl(files, pair_count, sleeps):
    draw = random.Random(SEED)
    seconds = draw.uniform if sleeps else lambda low, high: 0.0
    loading = [seconds(0, 0.5) for _ in range(files)]
    referring = seconds(0.5, 1.0)
    processing = [seconds(0, 0.5) for _ in range(files)]
    rolling = [seconds(0, 0.2) for _ in range(files - 2)]
    comparing = [seconds(0, 0.1) for _ in range(pair_count)]
    reducing = seconds(0, 1.0)
    draw = random.Random(SEED + 1)
    pairs = [draw.sample(range(files - 2), 2) for _ in range(pair_count)]

    def build(call):
        held = call(reference, referring)
        loaded = [call(load, loading[i], i) for i in range(files)]
        processed = [call(process, processing[i], loaded[i], held) for i in range(files)]
        rolled = [call(roll, rolling[i], *processed[i : i + 3]) for i in range(files - 2)]
        compared = [
            call(compare, comparing[i], rolled[a], rolled[b]) for i, (a, b) in enumerate(pairs)
        ]
        return [call(reduce, reducing, *compared)]

    # A window of three from i: i + (i + 1) + (i + 2), and one for each.
    expected = sum((3 * a + 6) - (3 * b + 6) for a, b in pairs)
    return Graph(build, 2 * files + (files - 2) + pair_count + 2, expected)


def shuffle(parts):
    def build(call):
        whole = [call(produce, 1, parts * MIB) for _ in range(parts)]
        pieces = [[call(split, array, number, MIB) for number in range(parts)] for array in whole]
        joined = [call(concat, *(row[number] for row in pieces)) for number in range(parts)]
        return [call(total, *joined)]

    return Graph(build, parts + parts * parts + parts + 1, parts * parts * MIB, parts * parts)


def bigfan(mib, consumers):
    def build(call):
        whole = call(produce, 1, mib * MIB)
        return [call(total, *(call(length, whole) for _ in range(consumers)))]

    return Graph(build, consumers + 2, consumers * mib * MIB, consumers * mib)


def trace(path, time_scale, size_scale):
    """A recorded workflow (WfFormat 1.5): its times and sizes scaled, consumers take inputs whole."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as file:
        workflow = json.load(file)["workflow"]
    specified = workflow["specification"]
    sizes = {file["id"]: file.get("sizeInBytes", 0) for file in specified.get("files", [])}
    times = {task["id"]: task.get("runtimeInSeconds", 0) for task in workflow["execution"]["tasks"]}
    places, steps = {}, []  # (seconds, bytes, places of inputs), each after its inputs.
    rest = specified["tasks"]
    while rest:
        ready = [task for task in rest if all(p in places for p in task.get("parents", []))]
        assert ready, f"{len(rest)} tasks wait for what never comes"
        rest = [task for task in rest if not all(p in places for p in task.get("parents", []))]
        for task in ready:
            count = int(sum(sizes.get(f, 0) for f in task.get("outputFiles", [])) * size_scale)
            inputs = sorted(places[parent] for parent in set(task.get("parents", [])))
            seconds = times.get(task["id"], 0) * time_scale
            steps.append((seconds, min(count, TRACE_BYTES_MAX), inputs))
        first = len(steps) - len(ready)
        places.update((task["id"], place) for place, task in enumerate(ready, first))
    taken = {place for _, _, inputs in steps for place in inputs}
    values = []
    for _, _, inputs in steps:
        values.append((1 + sum(values[place] for place in inputs)) % 251)
    last = [place for place in range(len(steps)) if place not in taken]

    def build(call):
        nodes = []
        for seconds, count, inputs in steps:
            nodes.append(call(step, seconds, count, *(nodes[place] for place in inputs)))
        return [call(ends, *(nodes[place] for place in last))]

    return Graph(build, len(steps) + 1, sum(values[place] for place in last))


def make(workload, size):
    """The graph of a workload; `size` is one or more numbers with commas between them."""
    if workload == "trace":
        path, time_scale, size_scale = size.rsplit(",", 2)
        return trace(path, float(time_scale), float(size_scale))
    numbers = [int(number) for number in size.split(",")]
    if workload in ("etl", "etlsleep"):
        return etl(*numbers, sleeps=workload == "etlsleep")
    makers = {"noop": noops, "chain": chain, "tree": tree, "shuffle": shuffle, "bigfan": bigfan}
    return makers[workload](*numbers)
