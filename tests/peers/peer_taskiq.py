"""TaskIQ: aio-pika (RabbitMQ) as its broker, Redis for results; two worker processes. Short tasks are
coroutines, as is its custom; those that sleep run on as many threads as there are slots. It has no
graphs: stage by stage."""
import asyncio
import functools
import os

import common
import graphs
import stages
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import RedisAsyncResultBackend

WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "shuffle", "bigfan", "latency", "trace")
WAIT_S = 600  # For results; the limit of the driver's caller comes first.
AT_ONCE = 500  # Tasks that are handed in side by side.

threads = int(os.environ.get("PEERS_THREADS", "0"))
results = RedisAsyncResultBackend(common.server("PEERS_REDIS_URL"), result_ex_time=600)
broker = AioPikaBroker(common.server("PEERS_AMQP_URL"), qos=threads or 256)
broker = broker.with_result_backend(results)


def task(function):
    body = stages.body(function)

    @functools.wraps(function)
    async def coroutine(*arguments):
        return body(*arguments)

    return broker.register_task(body if threads else coroutine, task_name=function.__name__)


TASKS = {function: task(function) for function in graphs.FUNCTIONS}


async def submit(calls):
    handles = []
    for first in range(0, len(calls), AT_ONCE):
        some = calls[first : first + AT_ONCE]
        handles += await asyncio.gather(*(TASKS[f].kiq(*arguments) for f, arguments in some))
    waited = [await h.wait_result(check_interval=0.001, timeout=WAIT_S) for h in handles]
    for result in waited:
        result.raise_for_error()
    return [result.return_value for result in waited]


def main():
    found = common.flags(WORKLOADS)
    slots = found.worker_slots if found.workload in graphs.SLEEPING else 0
    size = ("--max-threadpool-threads", slots) if slots else ("--max-async-tasks", 100)
    environment = {**os.environ, "PEERS_THREADS": str(slots)}
    arguments = ("worker", "peer_taskiq:broker", "--workers", 2, *size, "--log-level", "ERROR")
    common.start("taskiq", *arguments, env=environment)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())
    wait = lambda calls: loop.run_until_complete(submit(calls))
    common.run(found, lambda graph: stages.compute(graph, wait), lambda: wait([(graphs.noop, [1])]))
    loop.run_until_complete(broker.shutdown())


if __name__ == "__main__":
    common.to_the_end(main)
