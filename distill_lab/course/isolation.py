"""Shut a forked process off from everything but one socket: what the worker does before strangers'
code runs in it.

The warm worker calls these in the process it forks, inside the sandbox. Python 3.11 has none of
the system calls, so they go through ctypes. Numbers and structures: Linux's UAPI headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000
NEWCGROUP, NEWNET = 0x2000000, 0x40000000
NAMESPACES = NEWNS | NEWUTS | NEWIPC | NEWPID
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 24, 36
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63

# A uid that nobody else has, so that a limit on its processes counts only its own.
FIRST_UID, UIDS = 61_200, 3_000

MEGABYTE = 1 << 20
PROCESSES = 8  # threads count too
OPEN_FILES = 128
FILE_BYTES = 16 * MEGABYTE
SCRATCH = b"size=64m,nr_inodes=4096,mode=1777"

# System calls that no exercise needs: those that make or leave namespaces and mounts, look into
# other processes, reach other machines, or hold memory that no limit of a process counts.
DENIED = {
    "x86_64": (
        *(101, 310, 311, 312, 438),  # ptrace, process_vm_*, kcmp, pidfd_getfd
        *(155, 161, 165, 166, 272, 308),  # pivot_root, chroot, mount, umount2, unshare, setns
        *(428, 429, 430, 431, 432, 433, 442),  # the new mount calls
        *(303, 304),  # file handles
        *(29, 30, 64, 68, 240, 319),  # System V and POSIX IPC, memfd_create
        41,  # socket; socketpair stays
        *(248, 249, 250, 298, 321, 323, 425, 426, 427),  # keys, perf, bpf, userfaultfd, io_uring
        *(175, 246, 313, 320),  # modules and kexec
    ),
    "aarch64": (
        *(117, 270, 271, 272, 438),
        *(41, 51, 40, 39, 97, 268),
        *(428, 429, 430, 431, 432, 433, 442),
        *(264, 265),
        *(194, 196, 190, 186, 180, 279),
        198,
        *(217, 218, 219, 241, 280, 282, 425, 426, 427),
        *(105, 104, 273, 294),
    ),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
MMAP = {"x86_64": 9, "aarch64": 222}
MAP_SHARED = 1  # also a bit of MAP_SHARED_VALIDATE
CLONE3 = 435
X32 = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent has gone."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends, however it ends.

    Args:
        parent: The starting process's id: it may have ended before this is called.
    """
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def enter_namespaces() -> None:
    """Leave the caller's namespaces: its next child is process 1 of a world of its own.

    Raises:
        OSError: The system does not allow it.
    """
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        _call("unshare", NAMESPACES)
    else:
        _call("unshare", NAMESPACES | NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    for folder in (b"/tmp", b"/dev/shm"):
        if os.path.isdir(folder):
            _call("mount", b"tmpfs", folder, b"tmpfs", MS_NOSUID | MS_NODEV, SCRATCH)


def hide_proc() -> None:
    """Cover /proc, where a process finds descriptors, memory and command lines."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _call("mount", b"tmpfs", b"/proc", b"tmpfs", flags | 1, b"size=4k,mode=0555")


def try_out() -> None:
    """Shut a child off once, to see whether the system allows it.

    Raises:
        OSError: It does not.
    """
    enter_namespaces()
    pid = os.fork()
    if pid == 0:
        try:
            shut_off()
        except OSError:
            os._exit(1)
        os._exit(0 if os.getpid() == 1 else 1)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError(errno.EPERM, "a process cannot be shut off")


def limit(memory: int, seconds: int) -> None:
    """Cap memory, CPU time, processes, files.

    Args:
        memory: Bytes it may take beyond what it has.
        seconds: Of CPU time, each process; the judge's own clock ends what only waits.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # Address space, not only data: shared mappings are memory too.
    space = pages * os.sysconf("SC_PAGE_SIZE") + memory
    for kind, soft, hard in (
        (resource.RLIMIT_AS, space, space),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_NPROC, PROCESSES, PROCESSES),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
        (resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))


def shut_off() -> None:
    """Give up all that a process in namespaces of its own still has of the machine.

    Raises:
        OSError: The system does not allow it.
    """
    hide_proc()
    drop_privileges()
    filter_system_calls()


def drop_privileges() -> None:
    """Give up root's uid and every capability, for good."""
    for capability in range(LAST_CAPABILITY + 1):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # beyond the kernel's last one: EINVAL
    if os.getuid() == 0:
        uid = FIRST_UID + int.from_bytes(os.urandom(4), "little") % UIDS
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    _call("capset", header, bytes(24))
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def filter_system_calls() -> None:
    """Have the kernel refuse ``DENIED``; on other processors than those listed, nothing."""
    machine = platform.machine()
    if machine not in DENIED:
        return
    program = _program(machine)
    code = ctypes.create_string_buffer(b"".join(program))
    # struct sock_fprog: length, then (aligned) the pointer.
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0)


def _program(machine: str) -> list[bytes]:
    """Assemble the filter for classic BPF."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, unknown = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS

    def step(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, k)

    program = [
        step(load, 4),  # seccomp_data.arch
        step(equal, AUDIT_ARCH[machine], 1),
        step(give, kill),
        step(load, 0),  # seccomp_data.nr
    ]
    if machine == "x86_64":
        program += [step(at_least, X32, 0, 1), step(give, kill)]
    for number in DENIED[machine]:
        program += [step(equal, number, 0, 1), step(give, refuse)]
    # clone3 takes its flags from memory, where no filter looks: libc then falls back on clone.
    program += [step(equal, CLONE3, 0, 1), step(give, unknown)]
    # Pages of shared memory that a process has let go of are still there, and nobody's.
    program += [
        step(equal, MMAP[machine], 0, 4),
        step(load, 16 + 3 * 8),  # seccomp_data.args[3], its low half
        step(any_bit, MAP_SHARED, 0, 1),
        step(give, refuse),
        step(give, allow),
    ]
    spaces = NAMESPACES | NEWUSER | NEWNET | NEWCGROUP
    program += [
        step(equal, CLONE[machine], 0, 3),
        step(load, 16),  # seccomp_data.args[0], its low half
        step(any_bit, spaces, 0, 1),
        step(give, refuse),
        step(give, allow),
    ]
    return program
