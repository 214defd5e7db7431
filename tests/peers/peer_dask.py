"""Dask.distributed: a scheduler process and two worker processes.

tuned: without dashboard, nannies, profiler, work stealing, spilling and memory manager, all of which
cost time here. default: as shipped."""
import functools
import os

import common
import graphs

TUNED = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__START": "False",
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "0",
}
WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "shuffle", "bigfan", "latency", "trace")


def start(tuned, slots):
    """Starts the processes; the file in which they find one another."""
    file = os.path.join(common.folder(), "scheduler.json")
    at = ("--scheduler-file", file, "--host", "127.0.0.1")
    bare = ("--no-dashboard",) if tuned else ("--dashboard-address", "127.0.0.1:0")
    common.start("dask", "scheduler", *at, "--port", 0, *bare)
    lone = ("--no-nanny",) if tuned else ()
    for _ in range(2):
        size = ("--nthreads", slots, "--memory-limit", "8GiB")
        common.start("dask", "worker", *at, *size, *bare, *lone)
    return file


def main():
    found = common.flags(WORKLOADS, ("tuned", "default"))
    if found.config == "tuned":
        os.environ.update(TUNED)
    # They read the environment when they are loaded.
    import dask
    from dask.distributed import Client

    file = start(found.config == "tuned", found.worker_slots)
    client = Client(scheduler_file=file, timeout=60)
    client.wait_for_workers(2)
    delayed = functools.cache(lambda function: dask.delayed(function, pure=False))

    def compute(graph):
        if found.workload == "noop":  # Its own way to submit many independent calls.
            calls = client.map(graphs.noop, range(graph.tasks), pure=False)
            return sum(client.gather(calls))
        outputs = graph.build(lambda function, *arguments: delayed(function)(*arguments))
        return sum(client.gather(client.compute(outputs, optimize_graph=False)))

    common.run(found, compute, lambda: client.submit(graphs.noop, 1, pure=False).result())
    client.close()


if __name__ == "__main__":
    common.to_the_end(main)
