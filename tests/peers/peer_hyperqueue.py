"""HyperQueue: a server and two workers, together one process; the Python package alone.

A task is always a process: /bin/true, or /bin/sleep where it takes time. Edges only order tasks, no
data passes along them: the result that is checked is that every task has succeeded."""
import signal
import subprocess
import sys

import common
import graphs

WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "latency")


class Node:
    """A task, as what another one comes after."""

    def __init__(self, task):
        self.task = task


def serve(directory, slots):
    """The cluster's process."""
    from hyperqueue import LocalCluster
    from hyperqueue.cluster import WorkerConfig

    cluster = LocalCluster(directory)
    for _ in range(2):
        cluster.start_worker(WorkerConfig(cores=int(slots)))
    print("up", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def main():
    found = common.flags(WORKLOADS)
    import hyperqueue
    import hyperqueue.client

    # The package asks for the state of a job when it shows how far it has got: no such display.
    hyperqueue.client.create_progress_callback = lambda: lambda jobs: None
    command = ("peer_hyperqueue", "serve", common.folder(), found.worker_slots)
    server = common.start(*command, stdout=subprocess.PIPE, text=True)
    # What else it says stands before.
    if not any(line.strip() == "up" for line in server.stdout):
        sys.exit("the server of HyperQueue did not start")
    client = hyperqueue.Client(common.folder())

    def compute(graph):
        job = hyperqueue.Job()

        def call(function, *arguments):
            before = [argument.task for argument in arguments if isinstance(argument, Node)]
            seconds = arguments[0] if function in graphs.TIMED else 0
            program = ["/bin/sleep", f"{seconds:.4f}"] if seconds else ["/bin/true"]
            return Node(job.program(program, deps=before, stdout=None, stderr=None))

        graph.build(call)
        submitted = client.submit(job)
        succeeded = client.wait_for_jobs([submitted])
        client.forget(submitted)
        return graph.expected if succeeded else None

    common.run(found, compute, lambda: compute(graphs.noops(1)))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        common.to_the_end(main)
