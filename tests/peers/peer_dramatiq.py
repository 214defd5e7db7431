"""Dramatiq: RabbitMQ as its broker, Redis for results; two worker processes, each with as many
threads as it has slots. It has no graphs of a general kind: stage by stage."""
import common
import dramatiq
import graphs
import stages
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

WORKLOADS = ("noop", "chain", "tree", "etl", "etlsleep", "shuffle", "bigfan", "latency", "trace")
WAIT_MS = 600_000  # For results; the limit of the driver's caller comes first.

broker = RabbitmqBroker(url=common.server("PEERS_AMQP_URL"))
broker.add_middleware(Results(backend=RedisBackend(url=common.server("PEERS_REDIS_URL"))))
dramatiq.set_broker(broker)
ACTORS = {
    f: dramatiq.actor(stages.body(f), actor_name=f.__name__, store_results=True, max_retries=0)
    for f in graphs.FUNCTIONS
}


def submit(calls):
    messages = [ACTORS[function].message(*arguments) for function, arguments in calls]
    running = dramatiq.group(messages).run()
    return list(running.get_results(block=True, timeout=WAIT_MS))


def main():
    found = common.flags(WORKLOADS)
    common.start("dramatiq", "peer_dramatiq", "-p", 2, "-t", found.worker_slots)
    noop = ACTORS[graphs.noop]
    one = lambda: noop.send(1).get_result(block=True, timeout=WAIT_MS)
    common.run(found, lambda graph: stages.compute(graph, submit), one)


if __name__ == "__main__":
    common.to_the_end(main)
