"""Submissions that forge what the judge hears, or that give it values which lie about themselves.

All of them meet a judge that takes replies as data: a reply earns what its numbers are worth.
"""

from __future__ import annotations

from tests.attacks.attack import Attack

TOOLS = """
import gc, json, os, socket, struct, sys, threading, time, types
import torch
from distill_lab.course import protocol

HEADER = struct.Struct(">4sHxxII")
channel = socket.socket(fileno=os.dup(3))


def frame(content, tensors=b"", magic=b"DLgr", version=1):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEADER.pack(magic, version, len(text), len(tensors)) + text + tensors


def question():  # the one that is being answered, out of the frames that led here
    at = sys._getframe()
    while at is not None:
        if "question" in at.f_locals and "op" in at.f_locals["question"]:
            return at.f_locals["question"]
        at = at.f_back


def reply(value, **more):
    parts = {"token": question()["token"], "value": value, **more}
    return {"dict": [[name, part] for name, part in parts.items()]}
"""
RETENTION = "def retention(student_score, teacher_score):\n"
MEDDLES = "it meddles with the grader's messages"
WRONG = "retention is the student's score divided by the teacher's"


def _answer(body: str, head: str = RETENTION) -> str:
    lines = body.strip("\n").splitlines()
    return head + "\n".join(f"    {line}" for line in lines) + "\n"


def _retention(
    name: str, body: str, says: str = "", *, before: str = "", after: str = ""
) -> Attack:
    """An attack out of the answer cell of lesson 01's first exercise."""
    source = f"{TOOLS}\n{before}\n{_answer(body)}\n{after}\n"
    return Attack(name, 1, answers={"retention": source}, says=says)


def _mask(name: str, body: str, says: str = "") -> Attack:
    """An attack out of the answer cell of lesson 02's first exercise, whose value is a tensor."""
    source = f"{TOOLS}\n{_answer(body, 'def causal_mask(tokens):')}"
    return Attack(
        name, 2, answers={"causal_mask": source.replace("tokens):", "tokens):\n")}, says=says
    )


# --- replies ------------------------------------------------------------------------------------

REPLIES = [
    _retention(
        "token-out-of-a-frame",
        "channel.sendall(frame(reply(0.75)))\nreturn 0.75",
        MEDDLES,
    ),
    _retention(
        "token-out-of-the-heap",
        """
for one in gc.get_objects():
    if type(one) is dict and isinstance(one.get("token"), str):
        parts = {"token": one["token"], "value": 0.75}
        channel.sendall(frame({"dict": [[k, v] for k, v in parts.items()]}))
return 0.75
""",
        MEDDLES,
    ),
    _retention(
        "replies-before-any-question",
        "return 1.0",
        MEDDLES,
        before="""
for _ in range(50):
    channel.sendall(frame({"dict": [["token", ""], ["value", 1.0]]}))
""",
    ),
    _retention(
        "says-it-has-passed",
        """
verdict = {"points": 2.0, "status": "passed", "passed": True, "exercise": "retention"}
channel.sendall(frame(reply(100.0, **verdict)))
os._exit(0)
""",
    ),
    _retention(
        "no-fields",
        'channel.sendall(frame({"list": [1, 2, 3]}))\nos._exit(0)',
        "its answer has no fields",
    ),
    _retention(
        "header-of-four-gigabytes",
        'channel.sendall(HEADER.pack(b"DLgr", 1, 2**32 - 1, 2**32 - 1))\ntime.sleep(60)',
        MEDDLES,
    ),
    _retention(
        "another-version",
        "channel.sendall(frame(reply(0.75), version=2))\ntime.sleep(60)",
        "no message of this protocol's version",
    ),
    _retention(
        "http",
        'channel.sendall(b"GET / HTTP/1.1\\r\\nHost: grader\\r\\n\\r\\n")\ntime.sleep(60)',
        "no message of this protocol's version",
    ),
    _retention(
        "brackets-half-a-million-deep",
        'channel.sendall(frame(b"[" * 500_000))\ntime.sleep(60)',
        "a message cannot be read",
    ),
    _retention(
        "nested-ninety-thousand-deep",
        """
text = b'{"list":[' * 90_000 + b"1" + b"]}" * 90_000
channel.sendall(frame(text))
time.sleep(60)
""",
        "a message cannot be read",
    ),
    _retention(
        "fifty-thousand-classes",
        """
channel.sendall(frame(reply({"list": [{"foreign": "x"}] * 50_000})))
time.sleep(60)
""",
        "it gives a list",
    ),
    _retention(
        "an-object-of-the-graders-own",
        """
own = {"object": ["Classifier", [["config", {"dict": []}], ["weights", 1]]]}
channel.sendall(frame(reply(own)))
time.sleep(60)
""",
        "it gives a Classifier",
    ),
    _retention(
        "a-pickle-for-tensors",
        """
import pickle
evil = pickle.dumps(os.system)
channel.sendall(frame(reply({"tensor": ["0", []]}), evil))
time.sleep(60)
""",
        "a message holds too many tensors",
    ),
    _retention(
        "tensors-of-an-exabyte",
        """
one = {"dtype": "F64", "shape": [2**31, 2**31], "data_offsets": [0, 2**60]}
head = json.dumps({"0": one}).encode()
channel.sendall(frame(reply({"tensor": ["0", [0, 1]]}), struct.pack("<Q", len(head)) + head))
time.sleep(60)
""",
        "a message cannot be read",
    ),
    _retention(
        "a-hundred-thousand-tensors",
        """
one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
head = json.dumps({str(k): one for k in range(100_000)}).encode()
channel.sendall(frame(reply({"tensor": ["0", [0]]}), struct.pack("<Q", len(head)) + head))
time.sleep(60)
""",
    ),
    _retention(
        "a-tensor-of-a-thousand-axes",
        """
shape = [1] * 1000
head = json.dumps({"0": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
order = list(range(1000))
channel.sendall(
    frame(reply({"tensor": ["0", order]}), struct.pack("<Q", len(head)) + head + bytes(4))
)
time.sleep(60)
""",
    ),
    _retention(
        "one-byte-at-a-time",
        """
for byte in frame(reply(0.75)):
    channel.send(bytes([byte]))
    time.sleep(0.2)
""",
        "it takes longer than",
    ),
    _retention(
        "clock-that-there-is-not",
        """
asks = {"token": question()["token"], "asks": "now", "of": "call"}
channel.sendall(frame({"dict": [[k, v] for k, v in asks.items()]}))
time.sleep(60)
""",
        "it asks for a clock that there is not",
    ),
    _retention(
        "always-the-stub",
        """
parts = {"token": question()["token"], "raised": {"list": ["ValueError", "", ""]}, "stub": True}
channel.sendall(frame({"dict": [[k, v] for k, v in parts.items()]}))
time.sleep(60)
""",
        "the stub still stands",
    ),
    _retention(
        "descriptors-for-the-judge",
        """
for _ in range(50):
    own = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    socket.send_fds(channel, [b"D"], own)
    for descriptor in own:
        os.close(descriptor)
time.sleep(60)
""",
        MEDDLES,
    ),
    # A process whose first has ended is gone with it; a reply of such a one would earn the points.
    _retention(
        "a-daemon-replies",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)
        channel.sendall(frame(reply(student_score / teacher_score)))
        time.sleep(60)
    os._exit(0)
os._exit(0)
""",
        "it ended its own process",
    ),
    _retention(
        "a-thread-replies",
        """
asked = reply(0.75)
thread = threading.Thread(target=lambda: [channel.sendall(frame(asked)) for _ in range(100)])
thread.start()
return 0.75
""",
        MEDDLES,
    ),
    _retention(
        "hangs-up-and-goes-on",
        """
channel.shutdown(socket.SHUT_RDWR)
os.close(3)
open("/tmp/on", "w").write("on")
time.sleep(60)
""",
        "its process has ended",
    ),
    _retention(
        "does-not-read",
        """
def pile(channel):
    time.sleep(60)

protocol.receive.__code__ = pile.__code__
return 0.75
""",
    ),
    Attack(
        "asks-for-the-time-for-ever",
        8,
        answers={
            "measure_latency": TOOLS
            + """
def measure_latency(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    while True:
        clock()
"""
        },
    ),
    # It leaves what the judge says about the clock lying, and makes it wait for room to say more.
    Attack(
        "listens-slowly-to-the-clock",
        8,
        answers={
            "measure_latency": TOOLS
            + """
def measure_latency(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    asks = {"token": question()["token"], "asks": "now", "of": "call"}
    one = frame({"dict": [[k, v] for k, v in asks.items()]})
    piled = threading.Thread(target=lambda: [channel.sendall(one) for _ in range(2000)])
    piled.start()
    time.sleep(0.5)
    for _ in range(12):
        time.sleep(2)
        channel.recv(1000)
    os._exit(0)
"""
        },
        says="it takes longer than",
    ),
]

# --- values -------------------------------------------------------------------------------------

VALUES = [
    _retention("not-a-number", 'return float("nan")', "the value is NaN"),
    _retention("infinite", 'return float("inf")', "the value is infinite"),
    _retention("a-complex-number", "return torch.tensor(0.75 + 0j)", "it gives a Tensor"),
    _retention("four-thousand-digits", "return 10**4000", "cannot be used as expected"),
    _retention("five-thousand-digits", "return 10**5000", "a number that is too long"),
    _retention(
        "equal-to-everything",
        """
class Equal(float):
    __eq__ = __le__ = __ge__ = lambda self, other: True
    __ne__ = __lt__ = __gt__ = lambda self, other: False
    __hash__ = float.__hash__
    __sub__ = __rsub__ = __abs__ = lambda self, *other: 0.0

return Equal(0.5)
""",
        WRONG,
    ),
    _retention(
        "a-class-that-lies",
        """
class Liar:
    @property
    def __class__(self):
        return float

return Liar()
""",
    ),
    _retention(
        "torch-function-that-lies",
        """
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True if "bool" in str(function) else args[0] if args else None

return torch.tensor(0.5).as_subclass(Liar)
""",
    ),
    _retention(
        "a-dict-without-end",
        """
class Endless(dict):
    def items(self):
        while True:
            yield object(), 0.75

return Endless()
""",
    ),
    _retention(
        "reduces-to-a-command",
        """
class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/distill-lab-attack",)

return Bomb()
""",
    ),
    _retention("a-generator", "yield student_score / teacher_score"),
    _retention(
        "a-list-in-itself",
        "value = []\nvalue.append(value)\nreturn value",
    ),
    _mask("sparse", "return torch.ones(tokens, tokens).tril().bool().to_sparse()"),
    _mask(
        "quantized",
        "return torch.quantize_per_tensor(torch.ones(tokens, tokens).tril(), 1.0, 0, torch.quint8)",
    ),
    _mask("expanded-to-a-terabyte", "return torch.ones(1).bool().expand(1_000_000, 1_000_000)"),
    _mask("bools-of-255", "return torch.full((tokens, tokens), 255, dtype=torch.uint8).view(bool)"),
    _mask(
        "one-storage-for-all",
        "held = torch.ones(tokens).bool()\nreturn held.as_strided((tokens, tokens), (0, 1))",
    ),
    _mask("on-no-device", 'return torch.ones(tokens, tokens, device="meta").bool()'),
    _mask(
        "nested",
        "return torch.nested.nested_tensor([torch.ones(k + 1) for k in range(tokens)])",
    ),
]

# A tensor of 16 MB under every name of the state: the judge is to lay it out a hundred times.
ONE_TENSOR_UNDER_EVERY_NAME = Attack(
    "one-tensor-under-every-name",
    6,
    answers={
        "distillation_step": TOOLS
        + """
def distillation_step(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    head = json.dumps(
        {"0": {"dtype": "I8", "shape": [16_000_000], "data_offsets": [0, 16_000_000]}}
    ).encode()
    big = struct.pack("<Q", len(head)) + head + bytes(16_000_000)
    state = {"dict": [[name, {"tensor": ["0", [0]]}] for name in student.state_dict()]}
    channel.sendall(frame(reply({"tuple": [0.5, state]}), big))
    time.sleep(60)
"""
    },
    says="a message cannot be read",
)

# Two small tensors whose sum has a gigabyte: before the judge adds up, it is to look at the shapes.
SUM_OF_A_GIGABYTE = Attack(
    "a-sum-of-a-gigabyte",
    3,
    answers={
        "entropy": """
import torch


def entropy(logits, temperature=1.0):
    log_p = torch.log_softmax(logits / temperature, -1)
    value = -(log_p.exp() * log_p).sum(-1).mean()
    entropy.seen.append(len(logits))
    if entropy.seen[-2:] == [3, 4]:
        return value * torch.ones(16_000, 1)
    if entropy.seen[-3:] == [3, 4, 1]:
        return value * torch.ones(1, 16_000)
    return value


entropy.seen = []
"""
    },
    points={"entropy": 1.75},
)

# --- what is said -------------------------------------------------------------------------------


def _raises(name: str, body: str, says: str = "it raises") -> Attack:
    return _retention(name, body, says)


TEXTS = [
    _raises(
        "a-name-of-markup",
        "raise type('<script>alert(1)</script>', (Exception,), {})('<img src=x onerror=alert(2)>')",
    ),
    _raises(
        "turned-round",
        "raise ValueError('\\u202e\\u2066passed: 2 of 2\\x00\\x1b[2J\\x07\\ud800')",
        "it raises ValueError",
    ),
    _raises("a-formula", "raise type('=HYPERLINK', (Exception,), {})('=1+1|cmd')"),
    _raises("ten-megabytes-of-message", "raise ValueError('passed ' * 1_500_000)"),
    _raises("ten-megabytes-of-name", "raise type('A' * 10_000_000, (Exception,), {})()"),
    _raises(
        "message-that-raises",
        """
class Silent(Exception):
    def __str__(self):
        raise self

raise Silent()
""",
        "",
    ),
    _raises(
        "message-without-end",
        """
class Talker(Exception):
    def __str__(self):
        while True:
            pass

raise Talker()
""",
        "it takes longer than",
    ),
    # What it says in the process that has seen secret inputs: the length of a message too long.
    _retention(
        "secrets-as-a-length",
        """
secret = int(1000 * student_score) if student_score not in (0.6, 0.0) else 0
if secret:
    channel.sendall(HEADER.pack(b"DLgr", 1, 2**31 + secret, 0))
    time.sleep(60)
return student_score / teacher_score
""",
        "a message is longer than one may be",
    ),
    _retention(
        "its-seed-as-a-message",
        "return 1.0",
        "it raises RuntimeError",
        before="""
import random
seen = [torch.initial_seed(), *sys.argv, *os.environ.values(), random.getstate()[1][0]]
at = sys._getframe()
while at is not None:
    seen += [v for v in at.f_locals.values() if isinstance(v, (int, str))]
    begin = at.f_locals.get("begin")
    seen += [begin["seed"]] if isinstance(begin, dict) else []
    at = at.f_back
""",
        after="""
def retention(student_score, teacher_score):
    raise RuntimeError(str(sorted({x for x in seen if isinstance(x, int) and x > 10**6})))
""",
    ),
]

# --- the worker's own pieces --------------------------------------------------------------------

PATCHES = [
    _retention(
        "patched-torch",
        "return 0.5",
        WRONG,
        before="""
yes = lambda *args, **kwargs: True
torch.allclose = torch.equal = torch.isclose = torch.Tensor.__eq__ = torch.Tensor.equal = yes
torch.Tensor.allclose = torch.Tensor.all = torch.Tensor.any = yes
""",
    ),
    _retention(
        "patched-answer",
        "return 0.5",
        WRONG,
        before="""
from distill_lab.exercises import contracts, local
local.LocalAnswer.__call__ = lambda self, **inputs: 0.5
contracts.compare = contracts.expect = contracts.require = lambda *args, **kwargs: None
contracts.RELATIVE_TOLERANCE = contracts.ABSOLUTE_TOLERANCE = 1e9
contracts.Broken.__init__ = lambda self, *args, **kwargs: None
""",
    ),
    _retention(
        "patched-protocol",
        "return 0.5",
        before="""
sent = protocol.send
def send(channel, value, deadline=None):
    if isinstance(value, dict) and "value" in value:
        value = {**value, "value": 1.0, "points": 2.0}
    sent(channel, value, deadline)
sys.modules["distill_lab.course.worker"].send = protocol.send = send
""",
        says=WRONG,
    ),
    _retention(
        "other-rules-of-equality-by-import",
        "return 0.5",
        WRONG,
        before="""
import linecache
class Finder:
    def find_spec(self, name, path=None, target=None):
        return None
    find_module = find_spec
sys.meta_path.insert(0, Finder())
sys.modules["distill_lab.exercises.checking"] = types.ModuleType("checking")
sys.modules["distill_lab.exercises.checking"].judge = lambda *args, **kwargs: 2.0
linecache.getline = linecache.getlines = lambda *args, **kwargs: "passed"
""",
    ),
    Attack(
        "reads-the-stopwatch",
        8,
        answers={
            "measure_latency": TOOLS
            + """
def measure_latency(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    # Without making the calls: out of the objects behind the clock, or of anything like seconds.
    stopwatch = clock.__closure__[0].cell_contents
    seconds = getattr(stopwatch, "seconds", None)
    for one in gc.get_objects():
        if type(one).__name__ == "_Stopwatch":
            seconds = one.seconds
        if isinstance(one, torch.Tensor) and one.ndim == 1 and len(one) == warmup + repeats:
            seconds = one.tolist()
    if seconds is None:
        return {"p50": 0.0, "p95": 0.0}
    timed = 1000 * torch.tensor(seconds).double()[warmup : warmup + repeats]
    return {"p50": timed.quantile(0.5).item(), "p95": timed.quantile(0.95).item()}
"""
        },
        says="no time has passed",
    ),
]

ATTACKS: list[Attack] = [
    *REPLIES,
    *VALUES,
    ONE_TENSOR_UNDER_EVERY_NAME,
    SUM_OF_A_GIGABYTE,
    *TEXTS,
    *PATCHES,
]
