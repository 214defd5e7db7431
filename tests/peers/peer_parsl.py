"""Parsl: its HighThroughputExecutor, with an interchange and a manager of two processes, or twenty.

Results travel through the client."""
import functools
import os

import common
import graphs

WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "shuffle", "bigfan", "latency", "trace")


def main():
    found = common.flags(WORKLOADS)
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="bench",
        address="127.0.0.1",
        loopback_address="127.0.0.1",
        max_workers_per_node=2 * found.worker_slots,
        cores_per_worker=0.01,
        # Tasks that wait at the manager, so that short ones follow at once.
        prefetch_capacity=0 if found.workload in graphs.SLEEPING else 64,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        encrypted=False,
    )
    config = Config(
        executors=[executor],
        run_dir=os.path.join(common.folder(), "parsl"),
        strategy="none",
        usage_tracking=0,
        initialize_logging=False,
    )
    app = functools.cache(parsl.python_app)

    def compute(graph):
        outputs = graph.build(lambda function, *arguments: app(function)(*arguments))
        return sum(output.result() for output in outputs)

    with parsl.load(config):
        common.run(found, compute, lambda: app(graphs.noop)(1).result())


if __name__ == "__main__":
    common.to_the_end(main)
