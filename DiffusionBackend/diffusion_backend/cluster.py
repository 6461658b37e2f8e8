"""Studies on an existing Dask cluster: one study is one task, its result goes to the output folder, which all workers
must see under the same path. A worker runs as many studies at once as it has threads."""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from . import __version__, batch, children
from .errors import InputError

CONNECT_SECONDS = 15.0
WORKERS_SECONDS = 30.0  # how long to wait for the first worker
VERSION = "diffusion_backend:__version__"


@contextmanager
def connected(scheduler: str, name: str) -> Iterator[tuple[Callable[..., Future], Callable[[], None]]]:
    """A function that starts a study (words, batch, version) on the cluster, and one that stops the batch `name`.

    Raises InputError where the cluster can't be used."""
    client = _client(scheduler)
    try:
        _check_workers(client, scheduler)
        executor = client.get_executor(pure=False)
        yield lambda *study: executor.submit(run_on_worker, *study), lambda: client.run(batch.halt, name)
    finally:
        with suppress(Exception):  # the cluster may be gone
            client.run(children.close_all)
        client.close()


def run_on_worker(words: list[str], name: str, version: str) -> dict[str, Any]:
    """The task: one study on this worker."""
    from distributed import get_worker

    return batch.run_study(words, name, version, get_worker().state.nthreads)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "--scheduler needs the package dask[distributed]. Install it, or leave the option out."
        ) from None
    try:
        return Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"The scheduler '{scheduler}' can't be reached ({reason}). Give the address that it printed at its "
            "start, such as tcp://computer:8786."
        ) from None


def _check_workers(client: Any, scheduler: str) -> None:
    """At least one worker, each with this version of the engine."""
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
        raise InputError(
            f"The scheduler '{scheduler}' has no workers. Start one with: dask worker {scheduler}"
        ) from None
    found = client.run(pkgutil.resolve_name, VERSION, on_error="return")
    for worker, version in found.items():
        if isinstance(version, Exception):
            raise InputError(
                f"The worker {worker} can't import diffusion_backend ({version}). Install diffusionmodels "
                f"{__version__} there."
            )
        if version != __version__:
            raise InputError(
                f"The worker {worker} has version {version} of diffusion_backend, but {__version__} runs here. "
                "Install the same on both."
            )
