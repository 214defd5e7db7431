"""What all drivers share: flags, processes, measuring, and the line of JSON that is printed."""
import argparse
import atexit
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import psutil

import graphs

WARM_UP_TASKS = 200
LATENCY_WARM_UP_TASKS = 20
# Graphs that have to be run once before: worker processes start only then, numpy is loaded.
WARM_UP_WHOLE = ("etlsleep", "shuffle", "bigfan", "trace")
LOG = "processes.log"
# In the environment of all that this program starts, and of nothing else.
MARK = f"{os.getpid()}-{time.time_ns()}"
# Some systems detach processes from those that start them. This waits until this program is gone,
# however it ended, and then ends what carries the mark.
GUARD = """
    read -r _
    for found in $(grep -alzxF "PEERS_MARK=$1" /proc/[0-9]*/environ 2>/dev/null); do
        found=${found#/proc/}
        kill -s KILL "${found%/environ}"
    done
"""
started = []
guards = []
# Worker processes find the functions by name, and the programs beside the interpreter.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])


def flags(workloads, configs=("default",)):
    """What to run and how. Ends this program with a message when it cannot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=workloads)
    parser.add_argument("size", help="numbers, with commas between them")
    parser.add_argument("--config", default=configs[0], choices=configs)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=90, help="seconds for all runs together")
    found = parser.parse_args()
    found.worker_slots = 10 if found.workload in graphs.SLEEPING else 1
    guard = ["sh", "-c", GUARD, "-", MARK]
    # Its input is a pipe that only this program holds open.
    guards.append(subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True))
    os.environ["PEERS_MARK"] = MARK
    # Told to go, it unwinds, and ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    return found


def server(variable):
    """The URL of a server that was given to this program: none is ever guessed."""
    url = os.environ.get(variable)
    return url or sys.exit(f"{variable} is not set: set it to a server for this driver alone")


def folder():
    """Where logs and files of a run go; removed afterwards unless it was given in PEERS_TMP."""
    if "PEERS_TMP" not in os.environ:
        os.environ["PEERS_TMP"] = tempfile.mkdtemp(prefix="peers-")
        atexit.register(shutil.rmtree, os.environ["PEERS_TMP"], ignore_errors=True)
    return os.environ["PEERS_TMP"]


def start(*arguments, **options):
    """Starts a module of Python as a process of the system; its output goes to a log. Should it end
    before `stop`, so does this program."""
    signal.signal(signal.SIGCHLD, lambda *_: give_up())
    with open(os.path.join(folder(), LOG), "ab") as log:
        command = [sys.executable, "-m", *map(str, arguments)]
        options = {"stdout": log, "stderr": log, "cwd": folder(), **options}
        started.append(subprocess.Popen(command, **options))
    return started[-1]


def give_up():
    for process in started:
        if process.poll() is not None:
            with open(os.path.join(folder(), LOG), errors="replace") as log:
                end = log.read()[-2000:]
            sys.exit(f"{end}\n{' '.join(process.args[2:4])} has ended with {process.returncode}")


def processes():
    """What runs because of this program: its descendants, and what has left them but not the
    environment that it was started with."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.environ().get("PEERS_MARK") == MARK:
                found[process.pid] = process
        except psutil.Error:
            pass  # It has ended, or belongs to somebody else.
    for guard in guards:
        found.pop(guard.pid, None)
    return list(found.values())


def stop():
    """Ends all that was started."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    left = processes()
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            try:
                act(process)
            except psutil.Error:
                pass
        _, left = psutil.wait_procs(left, timeout=2)


def to_the_end(main):
    """Runs it, and ends all that it started whatever ends it."""
    try:
        main()
    finally:
        stop()


class Usage:
    """Processor time and memory of this program, the system's processes and the servers."""

    def __init__(self):
        servers = os.environ.get("PEERS_SERVER_PIDS", "")
        self.roles = {
            "client": [os.getpid()],
            "system": [process.pid for process in processes()],
            "servers": [int(pid) for pid in servers.split(",") if pid],
        }
        self.before = self.cpu_s()
        for pids in self.roles.values():
            for pid in pids:
                try:
                    with open(f"/proc/{pid}/clear_refs", "w") as file:
                        file.write("5")  # Forgets the peak.
                except OSError:
                    pass

    def cpu_s(self):
        def of(pid):
            try:
                return sum(psutil.Process(pid).cpu_times()[:2])
            except psutil.Error:
                return 0.0

        return {role: sum(map(of, pids)) for role, pids in self.roles.items()}

    def since(self, runs):
        def peak(pid):
            try:
                with open(f"/proc/{pid}/status") as file:
                    lines = [line for line in file if line.startswith("VmHWM:")]
                return int(lines[0].split()[1]) // 1024 if lines else 0
            except OSError:
                return 0

        cpu_s = {
            role: round((now - self.before[role]) / runs, 2) for role, now in self.cpu_s().items()
        }
        return {
            "cpu_s_per_run": cpu_s,
            "peak_rss_mib": {role: [peak(pid) for pid in pids] for role, pids in self.roles.items()},
        }


def check(value, expected):
    if value != expected:
        sys.exit(f"wrong result: {value} instead of {expected}")


def report(found, **line):
    print(json.dumps({"workload": found.workload, "size": found.size, **line}), flush=True)


def run(found, compute, one):
    """Measures what was asked for. `compute(graph)` gives the sum of its outputs; `one()` runs a
    single task."""
    if found.workload == "latency":
        return latency(found, one)
    graph = graphs.make(found.workload, found.size)
    warm = graphs.noops(WARM_UP_TASKS)
    check(compute(warm), warm.expected)
    if found.workload in WARM_UP_WHOLE:
        check(compute(graph), graph.expected)
    usage = Usage()
    seconds = []
    # No run is begun that would not end within the limit, if it took as long as the one before.
    while len(seconds) < found.runs and (not seconds or sum(seconds) + seconds[-1] < found.limit):
        began = time.perf_counter()
        value = compute(graph)
        seconds.append(round(time.perf_counter() - began, 6))
        check(value, graph.expected)
    median_s = statistics.median(seconds)
    line = {"seconds": seconds, "median_s": median_s, "tasks": graph.tasks}
    line["tasks_per_s"] = round(graph.tasks / median_s, 1)
    if graph.mib:
        line["mib_per_s"] = round(graph.mib / median_s, 1)
    report(found, **line, **usage.since(len(seconds)))


def latency(found, one):
    """One task after the other, each submitted to an idle system and waited for."""
    for _ in range(LATENCY_WARM_UP_TASKS):
        one()
    usage = Usage()
    runs = []
    for _ in range(found.runs):
        times = []
        for _ in range(int(found.size)):
            began = time.perf_counter()
            one()
            times.append((time.perf_counter() - began) * 1e3)
        runs.append(sorted(times))

    def at(share):
        quantiles = [times[min(int(len(times) * share), len(times) - 1)] for times in runs]
        return [round(quantile, 3) for quantile in quantiles]

    line = {f"p{percent}_ms": statistics.median(at(percent / 100)) for percent in (50, 95, 99)}
    report(found, **line, p50_runs=at(0.5), **usage.since(found.runs))
