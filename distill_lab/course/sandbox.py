"""Where strangers' code runs: bubblewrap around the warm worker, or, without it, limits alone.

In the sandbox there is no network, no file but Python, its packages and the system's libraries
(all read-only), and no process but the worker's. It runs as nobody; each submission then gets
namespaces, a /tmp and limits of its own (``isolation``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_lab.course.protocol import ProtocolError, receive
from distill_lab.course.worker import FORK, KILL
from distill_lab.errors import UserError

# What of the library the worker itself is made of. None of it knows an answer.
WORKER_FILES = (
    *("__init__.py", "errors.py", "quiet.py"),
    *(f"exercises/{name}.py" for name in ("contracts", "local", "objects", "registry")),
    *(f"course/{name}.py" for name in ("__init__", "isolation", "protocol", "worker")),
)
PACKAGES = ("torch", "numpy", "transformers", "safetensors", "IPython", "sklearn", "scipy")
START = "from distill_lab.course.worker import main; main()"
TRY = "from distill_lab.course.isolation import try_out; try_out()"
INSIDE = "/worker"
START_SECONDS = 180  # importing torch and transformers from a cold disk
WARNING = (
    "WARNING: no working sandbox ({why}). Submissions run with your rights: they can read and "
    "change your files and use the network. Install bubblewrap (Debian: apt install bubblewrap), "
    "or grade in a container or a machine of its own; --require-sandbox refuses instead."
)


@dataclass(frozen=True)
class Confinement:
    """How submissions are kept.

    Attributes:
        sandboxed: Whether bubblewrap is around the worker; else there are limits alone.
        memory: Bytes a submission may take beyond what the warm worker has.
        seconds: An exercise may take, in all its processes' view of the clock.
        imports: Modules the warm worker has imported before it forks.
        ruled_out: Dotted names that some exercise's answer may not call.
    """

    sandboxed: bool
    memory: int
    seconds: int
    imports: tuple[str, ...] = ()
    ruled_out: tuple[str, ...] = ()


@functools.cache
def why_no_sandbox() -> str:
    """Shut a process off as submissions are, once; say why that does not work, or nothing."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _copy_worker(folder)
        command = [*_bubblewrap(folder, _sites()), "--", *_python([INSIDE], TRY)]
        try:
            tried = subprocess.run(
                command, capture_output=True, text=True, timeout=START_SECONDS, env=_environment()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bwrap does not run ({type(error).__name__})"
    return "" if tried.returncode == 0 else _last_line(tried.stderr)


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "bwrap fails"


class WorkerFailed(Exception):
    """The worker could not be started, or has died; the message says why, in one line."""


class Session:
    """One process of one submission.

    Attributes:
        channel: Where it is asked.
        ended: How it ended, once it has, in a clause such as "it took too much memory"; empty
            where the judge ended it.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.ended = ""


class Worker:
    """A warm worker, from the judge's side; a context manager that ends it."""

    def __init__(self, confinement: Confinement) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self._start(confinement)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, confinement: Confinement) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        _copy_worker(folder)
        self.control, inner = socket.socketpair()
        self._stack.callback(self.control.close)
        log = tempfile.TemporaryFile()  # noqa: SIM115
        self._stack.enter_context(log)
        with inner:
            self.process = subprocess.Popen(
                _command(confinement, folder, inner.fileno()),
                pass_fds=(inner.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        self._stack.callback(self._end)
        try:
            receive(self.control, time.monotonic() + START_SECONDS)
        except (ProtocolError, TimeoutError) as error:
            log.seek(0)
            why = _last_line(log.read()[-2000:].decode(errors="replace"))
            raise WorkerFailed(f"the worker does not start: {why}") from error

    def _end(self) -> None:
        self.control.close()  # on which the worker ends by itself
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        """End it, and all that it runs."""
        self._stack.close()

    @property
    def alive(self) -> bool:
        """Whether it can still fork."""
        return self.process.poll() is None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Fork a process for one exercise; it and all it started are gone when the block ends.

        Raises:
            WorkerFailed: It cannot be forked.
        """
        ours, theirs = socket.socketpair()
        with ours:
            session = Session(ours)
            try:
                with theirs:
                    socket.send_fds(self.control, [FORK], [theirs.fileno()])
                started = receive(self.control, time.monotonic() + START_SECONDS)
            except (OSError, ProtocolError) as error:
                raise WorkerFailed(f"the worker does not answer: {error}") from None
            if "failed" in started:
                raise WorkerFailed(f"no process can be shut off: {started['failed']}")
            try:
                yield session
            finally:
                session.ended = self._ended(ours)

    def _ended(self, channel: socket.socket) -> str:
        """End the process that was forked last, and say how it ended."""
        try:
            self.control.settimeout(START_SECONDS)
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)  # on which a process that only waits ends
            self.control.sendall(KILL)
            how = receive(self.control, time.monotonic() + START_SECONDS)
        except (OSError, ProtocolError):
            self._end()
            return "it ended the worker"
        if how["memory"]:
            return "it takes more memory than it may"
        if how["exit"] is None:
            return ""
        if how["exit"] == -signal.SIGXCPU or how["exit"] == -signal.SIGKILL:
            return "it used up its time or memory and was killed"
        return "it ended its own process"

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# --- starting -----------------------------------------------------------------------------------


def _copy_worker(folder: Path) -> None:
    """Lay out the part of the library that the worker is made of."""
    source = Path(__file__).resolve().parent.parent
    for name in WORKER_FILES:
        target = folder / "distill_lab" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    for path in (folder, *folder.rglob("*")):  # whoever the submission runs as may read it
        path.chmod(0o755 if path.is_dir() else 0o644)


def _environment() -> dict[str, str]:
    """Give the worker's environment: nothing of the caller's, and one thread everywhere."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return threads | {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "student",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _command(confinement: Confinement, folder: Path, descriptor: int) -> list[str]:
    """Give the command that starts the worker, in bubblewrap or alone."""
    sites = _sites()
    inside = INSIDE if confinement.sandboxed else str(folder)
    settings = {
        "memory": confinement.memory,
        "seconds": confinement.seconds,
        "namespaces": confinement.sandboxed,
        "imports": confinement.imports,
        "ruled_out": confinement.ruled_out,
    }
    places = _places(sites) if confinement.sandboxed else map(str, sites)
    python = _python([inside, *places], START)
    command = [*python, str(descriptor), json.dumps(settings)]
    if not confinement.sandboxed:
        return command
    return [*_bubblewrap(folder, sites), "--", *command]


def _python(paths: Sequence[str], start: str) -> list[str]:
    """Give the command of a Python that imports from these folders alone.

    Isolated and without site: no user folder, no .pth file, no path to a checkout.
    """
    program = f"import sys; sys.path[:0] = {list(paths)!r}; {start}"
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", program]


def _sites() -> list[Path]:
    """Give the folders from which the packages that submissions need are imported."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UserError(f"{name} is not installed; grading needs: 'distill-lab[notebooks]'")
        site = Path(spec.origin).parent.parent
        found += [] if site in found else [site]
    return found


def _places(sites: Sequence[Path]) -> list[str]:
    """Give where the sandbox shows the folders of packages."""
    return [f"/site/{number}" for number in range(len(sites))]


def _answers(prefixes: Sequence[Path]) -> list[Path]:
    """Give the folders that hold the library with its answers: the checkout, or the installed."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent if (package.parent / "solutions").is_dir() else package
    patterns = ("distill_lab", "lib/python3*/*-packages/distill_lab")
    installed = [path for prefix in prefixes for one in patterns for path in prefix.glob(one)]
    return [checkout, *(path for path in installed if path.is_dir() and path != checkout)]


def _bubblewrap(folder: Path, sites: Sequence[Path]) -> list[str]:
    """Give bubblewrap's options: an allow-list of what is seen, all of it read-only."""
    options = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in _environment().items():
        options += ["--setenv", name, value]
    for kind in ("pid", "net", "ipc", "uts"):
        options.append(f"--unshare-{kind}")
    options.append("--unshare-cgroup-try")
    if os.getuid() != 0:
        options.append("--unshare-user")
    shown: dict[str, list[str]] = {}
    for system in ("/usr", "/lib", "/lib64", "/lib32", "/bin"):
        if os.path.islink(system):
            shown[system] = ["--symlink", os.readlink(system), system]
        elif os.path.isdir(system):
            shown[system] = ["--ro-bind", system, system]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        if os.path.exists(file):
            shown[file] = ["--ro-bind", file, file]
    prefixes = [Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve()]
    executable = Path(os.path.realpath(sys.executable)).parent.parent
    for path in map(str, [executable, *prefixes]):
        if path != "/" and not path.startswith("/usr/"):
            shown[path] = ["--ro-bind", path, path]
    made: set[str] = set()
    for path, option in shown.items():
        for parent in reversed(Path(path).parents[:-1]):
            if str(parent) not in made and str(parent) not in shown:
                options += ["--perms", "0755", "--dir", str(parent)]
                made.add(str(parent))
        options += option
    for place in _answers(prefixes):  # where something that is shown holds them
        if any(place.is_relative_to(path) for path in shown):
            options += ["--tmpfs", str(place)]
    # Packages stand elsewhere than on the machine, where a /tmp of one's own might cover them.
    options += ["--perms", "0755", "--dir", "/site"]
    for site, stand in zip(sites, _places(sites), strict=True):
        options += ["--ro-bind", str(site), stand]
        if (site / "distill_lab").is_dir():
            options += ["--tmpfs", f"{stand}/distill_lab"]
    options += ["--ro-bind", str(folder), INSIDE]
    options += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    return [*options, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
