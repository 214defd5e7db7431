"""Ray: a local head (gcs, raylet, object store) with two slots, or twenty; each is a process."""
import functools
import logging
import os

import common
import graphs

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_enable_metrics_collection"] = "0"
WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "shuffle", "bigfan", "latency", "trace")


def main():
    found = common.flags(WORKLOADS)
    import ray
    import ray._private.services as services

    # Ray turns 127.0.0.1 into the machine's outer address; all systems are measured on loopback.
    services.resolve_ip_for_localhost = lambda address: "127.0.0.1"
    services.get_node_ip_address = lambda *_, **__: "127.0.0.1"
    ray.init(
        num_cpus=2 * found.worker_slots,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=2 << 30,
        _node_ip_address="127.0.0.1",
        _temp_dir=common.folder(),
    )
    remote = functools.cache(lambda f: ray.remote(num_cpus=1, max_retries=0)(f))

    def compute(graph):
        outputs = graph.build(lambda function, *arguments: remote(function).remote(*arguments))
        return sum(ray.get(outputs))

    common.run(found, compute, lambda: ray.get(remote(graphs.noop).remote(1)))
    ray.shutdown()


if __name__ == "__main__":
    common.to_the_end(main)
