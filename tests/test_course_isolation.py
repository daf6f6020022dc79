"""What a submission finds itself in: facts found out from inside a session of a real worker.

They are found out twice, for an instructor who is root and for one who is not. This file run as a
program finds them out and prints them.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOBODY = 65_534
MEMORY, SECONDS = 256 << 20, 10

INSIDE = '''
import ctypes, mmap, os, resource, signal, socket, struct, time
libc = ctypes.CDLL(None, use_errno=True)


def failed(number, *arguments):
    """The error with which a system call fails; 0 where it does not."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments) == -1 else 0


def opened(path, mode="rb"):
    try:
        open(path, mode).close()
    except OSError as error:
        return type(error).__name__
    return "opened"


def held():
    found = []
    for descriptor in range(4096):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        found.append(descriptor)
    return found


def shared(descriptor):
    try:
        mmap.mmap(descriptor, 1 << 20)
    except OSError as error:
        return error.errno
    finally:
        if descriptor > 3:
            os.close(descriptor)


def capabilities():
    header, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, sets)
    bounding = sum(max(0, libc.prctl(23, k, 0, 0, 0)) for k in range(41))
    return [*struct.unpack("6I", sets.raw), bounding]


def facts(calls, clone, kinds):
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "users": list(os.getresuid()),
        "groups": [*os.getresgid(), *os.getgroups()],
        "capabilities": capabilities(),
        "no_new_privileges": libc.prctl(39, 0, 0, 0, 0),
        "filtered": libc.prctl(21, 0, 0, 0, 0),
        "proc": os.listdir("/proc"),
        "descriptors": held(),
        "streams": [os.fstat(k).st_rdev == os.stat("/dev/null").st_rdev for k in range(3)],
        "channel": os.fstat(3).st_mode >> 12,
        "limits": {kind: list(resource.getrlimit(getattr(resource, kind))) for kind in kinds},
        "denied": {str(number): failed(number, 0, 0, 0, 0, 0, 0) for number in calls},
        "clone": [failed(clone, flag | signal.SIGCHLD, 0, 0, 0, 0)
                  for flag in (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)],
        "clone3": failed(435, 0, 0),
        "shared": [shared(-1), shared(os.open("/dev/zero", os.O_RDWR))],
        "environment": dict(os.environ),
        "here": os.getcwd(),
        "top": sorted(os.listdir("/")),
        "tmp": [os.listdir("/tmp"), os.listdir("/dev/shm"), os.access("/tmp", os.W_OK)],
        "writes": {path: opened(path + "/x", "wb") for path in
                   ("/", "/dev", "/usr", "/worker", "/worker/distill_lab", "/proc", "/etc")},
        "reads": {path: opened(path) for path in
                  ("/etc/shadow", "/etc/passwd", "/proc/self/mem", "/dev/mem", "/sys")},
        "library": sorted(os.listdir("/worker/distill_lab/exercises")),
    }


def leave():
    """Leave a file, and a process that hangs on."""
    open("/tmp/left", "w").write("left")
    open("/dev/shm/left", "w").write("left")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(600)
        os._exit(0)
    time.sleep(0.2)


def bomb():
    started = 0
    for _ in range(50):
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            break
        started += 1
    return started


def fill():
    """Write until there is no room; give how much there was, in MiB."""
    written = 0
    for k in range(100):
        try:
            with open(f"/tmp/{k}", "wb") as file:
                for _ in range(16):
                    written += file.write(bytes(1 << 20)) >> 20
        except OSError:
            break
    return written


def retention(student_score, teacher_score):
    return eval(student_score)
'''


# --- run as a program ---------------------------------------------------------------------------


def found_out() -> dict[str, Any]:
    """Ask sessions of one worker, and of one without the sandbox."""
    import torch

    from distill_lab.course import isolation
    from distill_lab.course.sandbox import Confinement, Worker

    torch.set_num_threads(1)
    os.environ["SECRET_OF_THE_INSTRUCTOR"] = "secret"
    machine = platform.machine()
    calls, clone = list(isolation.DENIED[machine]), isolation.CLONE[machine]
    kinds = [f"RLIMIT_{kind}" for kind in LIMITS]
    asks = f"facts({calls}, {clone}, {kinds})"
    found: dict[str, Any] = {}
    with Worker(Confinement(True, MEMORY, SECONDS)) as worker:
        found["facts"] = _asked(worker, asks)[0]
        before = _below(worker.process.pid)
        found["left"] = _asked(worker, "leave()")
        found["processes"] = [before, _below(worker.process.pid)]
        found["tmp"] = _asked(worker, "[os.listdir('/tmp'), os.listdir('/dev/shm')]")[0]
        found["bomb"], found["room"] = (_asked(worker, f"{what}()")[0] for what in ("bomb", "fill"))
        for name, what in ENDS.items():
            start = time.monotonic()
            found[name] = [*_asked(worker, what), worker.alive, time.monotonic() - start]
        found["after"] = _asked(worker, "1 + 1")[0]
    found["ended"] = worker.process.poll() is not None
    if os.getuid() == 0:
        with Worker(Confinement(False, MEMORY, SECONDS)) as worker:
            found["bare"] = _asked(worker, "[held(), resource.getrlimit(resource.RLIMIT_FSIZE)]")[0]
            _asked(worker, "leave()")
            found["bare processes"] = _below(worker.process.pid)
            for path in ("/tmp/left", "/dev/shm/left"):  # where there is no /tmp of its own
                os.unlink(path)
    return found


def _asked(worker: Any, question: str) -> tuple[Any, str]:
    """Give what a fresh session answers, or None, and how it ended."""
    from distill_lab.course.judging import RemoteAnswer, beginning
    from distill_lab.course.repair import Cell, Script
    from distill_lab.exercises.contracts import AnswerRaised, AnswerStopped
    from distill_lab.exercises.registry import find_exercise

    exercise = find_exercise("retention")
    begin = beginning(exercise, Script((Cell(INSIDE, exercise.id),), {}, ()), ())
    value = None
    try:
        with worker.session() as session:
            answer = RemoteAnswer(session.channel, SECONDS)
            answer.begin({**begin, "seed": 0})
            value = answer(student_score=question, teacher_score=1)
    except (AnswerStopped, AnswerRaised):
        pass
    return value, session.ended


def _below(pid: int) -> int:
    """Count the processes below one, as the host sees them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    below = {pid}
    while more := {one for one, parent in parents.items() if parent in below} - below:
        below |= more
    return len(below) - 1


LIMITS = ("AS", "CPU", "NPROC", "NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE")
ENDS = {
    "exit": "os._exit(7)",
    "x32": "libc.syscall(0x40000000 + 39)",
    "signals": "[os.kill(pid, 9) for pid in (1, -1)]",
    "hog": "[b'x' * (1 << 24) for _ in range(1000)]",
    "children": "[[os.fork() for _ in range(2)], b'x' * (200 << 20), time.sleep(60)]",
}

if __name__ == "__main__":
    print(json.dumps(found_out()))
    sys.exit()


# --- the tests ----------------------------------------------------------------------------------

pytestmark = pytest.mark.slow  # two warm workers are started


def _callers() -> list[str]:
    if os.getuid() == 0 and shutil.which("setpriv"):
        return ["root", "nobody"]
    return ["caller"]


@pytest.fixture(scope="module", params=_callers())
def found(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """What one caller's sessions found out."""
    command = [sys.executable, "-B", __file__]
    if request.param == "nobody":
        other = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        command = ["setpriv", *other, *command]
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = "1"
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert ran.returncode == 0, ran.stderr[-2000:]
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


@pytest.fixture
def facts(found: Mapping[str, Any]) -> Mapping[str, Any]:
    inside: dict[str, Any] = found["facts"]
    return inside


def test_it_is_process_1_of_a_world_of_its_own(facts: Mapping[str, Any]) -> None:
    assert (facts["pid"], facts["parent"], facts["session"]) == (1, 0, 1)


def test_it_is_nobody_and_can_become_nobody_else(facts: Mapping[str, Any]) -> None:
    assert len(set(facts["users"])) == 1
    assert 0 not in facts["users"] + facts["groups"][:3]
    assert facts["capabilities"] == [0] * 7
    assert facts["no_new_privileges"] == 1


def test_the_callers_groups_are_not_its_own(facts: Mapping[str, Any]) -> None:
    assert set(facts["groups"][3:]) <= {facts["groups"][0]}


def test_it_sees_no_process(facts: Mapping[str, Any]) -> None:
    assert facts["proc"] == []


def test_it_inherits_nothing_but_the_channel(facts: Mapping[str, Any]) -> None:
    assert facts["descriptors"] == [0, 1, 2, 3]
    assert facts["streams"] == [True] * 3
    assert facts["channel"] == 0o14  # a socket


def test_the_kernel_refuses_what_no_exercise_needs(facts: Mapping[str, Any]) -> None:
    assert facts["filtered"] == 2
    assert set(facts["denied"].values()) == {errno.EPERM}
    assert set(facts["clone"]) == {errno.EPERM}
    assert facts["clone3"] == errno.ENOSYS


def test_no_memory_can_be_shared_that_no_limit_would_count(facts: Mapping[str, Any]) -> None:
    assert facts["shared"] == [errno.EPERM] * 2


def test_every_limit_is_set_for_good(facts: Mapping[str, Any]) -> None:
    limits = {name.removeprefix("RLIMIT_"): value for name, value in facts["limits"].items()}
    size = limits.pop("AS")
    assert size[0] == size[1] != resource.RLIM_INFINITY
    assert limits == {
        "CPU": [SECONDS, SECONDS + 1],
        "NPROC": [8, 8],
        "NOFILE": [128, 128],
        "FSIZE": [16 << 20] * 2,
        "CORE": [0, 0],
        "MEMLOCK": [0, 0],
        "MSGQUEUE": [0, 0],
    }


def test_it_can_write_to_its_own_tmp_alone(facts: Mapping[str, Any]) -> None:
    assert facts["here"] == "/tmp"
    assert facts["tmp"] == [[], [], True]
    assert "opened" not in facts["writes"].values()


def test_it_sees_no_file_of_the_machine_but_programs(facts: Mapping[str, Any]) -> None:
    assert set(facts["reads"].values()) <= {"FileNotFoundError", "PermissionError"}
    assert not {"home", "sys", "var", "run", "srv", "mnt", "boot"} & set(facts["top"])


def test_it_has_nothing_of_the_callers_environment(facts: Mapping[str, Any]) -> None:
    assert "secret" not in json.dumps(facts["environment"]).lower()
    assert facts["environment"]["HOME"] == "/tmp"


def test_the_library_it_can_read_knows_no_answer(facts: Mapping[str, Any]) -> None:
    assert facts["library"] == ["contracts.py", "local.py", "objects.py", "registry.py"]


def test_nothing_of_it_stays_for_the_next(found: Mapping[str, Any]) -> None:
    assert found["tmp"] == [[], []]


def test_no_process_of_it_outlives_it(found: Mapping[str, Any]) -> None:
    before, after = found["processes"]
    assert after == before


def test_it_cannot_start_many_processes(found: Mapping[str, Any]) -> None:
    assert found["bomb"] <= 8


def test_its_tmp_has_an_end(found: Mapping[str, Any]) -> None:
    assert 32 <= found["room"] <= 64


@pytest.mark.parametrize("how", ["exit", "x32", "children"])
def test_how_it_ended_is_told(found: Mapping[str, Any], how: str) -> None:
    value, ended, _, _ = found[how]
    assert value is None
    told = {"children": "it takes more memory than it may"}
    assert ended == told.get(how, "it ended its own process")


@pytest.mark.parametrize("how", ENDS)
def test_the_worker_outlives_whatever_it_does(found: Mapping[str, Any], how: str) -> None:
    _, _, alive, seconds = found[how]
    assert alive
    assert seconds < SECONDS
    assert found["after"] == 2


def test_the_worker_ends_with_its_judge(found: Mapping[str, Any]) -> None:
    assert found["ended"]


def test_without_the_sandbox_limits_and_the_end_of_all_remain(found: Mapping[str, Any]) -> None:
    if "bare" in found:  # asked for one of the callers
        assert found["bare"] == [[0, 1, 2, 3], [16 << 20] * 2]
        assert found["bare processes"] == 0
