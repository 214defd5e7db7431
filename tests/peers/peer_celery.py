"""Celery: RabbitMQ as its broker (transient messages), Redis for results, JSON.

threads: two worker processes, each with as many threads as it has slots. prefork: one worker with a
pool of as many processes as there are slots. It has no graphs of a general kind: stage by stage."""
import functools
import os

import common
import graphs
import stages
from celery import Celery, group

WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "shuffle", "bigfan", "latency", "trace")
WAIT_S = 600  # For results; the limit of the driver's caller comes first.
REDIS = common.server("PEERS_REDIS_URL")

app = Celery("peer_celery", broker=common.server("PEERS_AMQP_URL"), backend=REDIS)
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    task_default_delivery_mode="transient",
    # Messages that wait at a worker, for each slot: long tasks must not.
    worker_prefetch_multiplier=int(os.environ.get("PEERS_PREFETCH", "64")),
    worker_send_task_events=False,
    task_send_sent_event=False,
    broker_pool_limit=4,
    broker_heartbeat=0,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
TASKS = {f: app.task(name=f.__name__)(stages.body(f)) for f in graphs.FUNCTIONS}


def start(config, slots):
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR")
    worker = functools.partial(common.start, "celery", "-A", "peer_celery", "worker", *quiet)
    if config == "prefork":
        worker("-P", "prefork", "-c", 2 * slots)
    else:
        for number in (1, 2):
            worker("-P", "threads", "-c", slots, "-n", f"worker{number}@%h")


def submit(calls):
    if len(calls) == 1:
        [(function, arguments)] = calls
        return [TASKS[function].delay(*arguments).get(timeout=WAIT_S, interval=0.001)]
    signatures = group(TASKS[function].s(*arguments) for function, arguments in calls)
    return signatures.apply_async().get(timeout=WAIT_S, interval=0.005)


def main():
    found = common.flags(WORKLOADS, ("threads", "prefork"))
    if found.workload in graphs.SLEEPING:
        os.environ["PEERS_PREFETCH"] = "1"
    start(found.config, found.worker_slots)
    one = lambda: submit([(graphs.noop, [1])])
    common.run(found, lambda graph: stages.compute(graph, submit), one)


if __name__ == "__main__":
    common.to_the_end(main)
