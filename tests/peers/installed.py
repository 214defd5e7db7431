"""Prints one line of JSON: the version of each system that is installed for this interpreter, and
`null` for the others."""
import importlib.metadata
import json

PACKAGES = {
    "dask": ["distributed"],
    "ray": ["ray"],
    "celery": ["celery", "redis"],
    "dramatiq": ["dramatiq", "redis", "pika"],
    "taskiq": ["taskiq", "taskiq-aio-pika", "taskiq-redis"],
    "parsl": ["parsl"],
    "hyperqueue": ["hyperqueue"],
}


def version(packages):
    """That of the first, if all are there; the drivers themselves need psutil and numpy."""
    try:
        return [importlib.metadata.version(name) for name in [*packages, "psutil", "numpy"]][0]
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps({peer: version(packages) for peer, packages in PACKAGES.items()}))
