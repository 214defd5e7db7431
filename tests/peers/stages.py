"""Graphs on systems that run single tasks only: stage by stage, from the client.

A stage holds the tasks whose inputs are all in earlier ones; the client submits it as a whole, waits
for all its results and passes them on. Large results go through the Redis that the driver was given:
tasks pass on their keys.
"""
import functools
import os
import uuid

import numpy as np
import redis

import graphs


class Node:
    def __init__(self, function, arguments):
        self.function, self.arguments, self.value = function, arguments, None
        inputs = [argument.stage for argument in arguments if isinstance(argument, Node)]
        self.stage = 1 + max(inputs, default=-1)

    def ready_arguments(self):
        return [a.value if isinstance(a, Node) else a for a in self.arguments]


def compute(graph, submit):
    """The sum of the outputs. `submit([(function, arguments)])` runs tasks side by side."""
    nodes = []

    def call(function, *arguments):
        nodes.append(Node(function, arguments))
        return nodes[-1]

    outputs = graph.build(call)
    stages = [[] for _ in range(1 + max(node.stage for node in nodes))]
    for node in nodes:
        stages[node.stage].append(node)
    for stage in stages:
        values = submit([(node.function, node.ready_arguments()) for node in stage])
        for node, value in zip(stage, values):
            node.value = value
    keys = [node.value for node in nodes if isinstance(node.value, str)]
    if keys:
        blobs().unlink(*keys)
    return sum(node.value for node in outputs)


@functools.cache
def blobs():
    return redis.Redis.from_url(os.environ["PEERS_REDIS_URL"])


def body(function):
    """The function as a task that takes and returns keys in place of large results."""

    @functools.wraps(function)
    def task(*arguments):
        if function is graphs.split:  # Redis can do this one without sending the whole.
            key, number, count = arguments
            return put(blobs().getrange(key, number * count, (number + 1) * count - 1))
        keys = [argument for argument in arguments if isinstance(argument, str)]
        if keys:
            found = iter(blobs().mget(keys))
            array = lambda: np.frombuffer(next(found), dtype=np.uint8)
            arguments = [array() if isinstance(a, str) else a for a in arguments]
        result = function(*arguments)
        return put(result.data) if isinstance(result, np.ndarray) else result

    return task


def put(value):
    key = f"blob:{uuid.uuid4()}"
    blobs().set(key, value)
    return key
