"""Submissions that try to have an answer they did not write, or look right where they are not.

The library's functions, the solutions and the expected values are not where they run; what they
claim about themselves is not asked.
"""

from __future__ import annotations

from pathlib import Path

from tests.attacks.attack import Attack

ROOT = Path(__file__).parents[2]  # a thief who knows where to look
HEAD = "def kl_divergence(student_logits, teacher_logits, temperature=1.0, *, mask=None):\n"
GIVEN = "student_logits, teacher_logits, temperature, mask=mask"
RIGHT = """
    p, q = ((x / temperature).log_softmax(-1) for x in (teacher_logits.detach(), student_logits))
    rows = (p.exp() * (p - q)).sum(-1)
    return rows.mean()
"""
OWN = "it is a function of the library, not an answer of your own"
WITHHELD = "cannot be had while grading"


def _kl(name: str, body: str, says: str = "", *, before: str = "", after: str = "") -> Attack:
    """An attack out of the answer cell of lesson 03's third exercise."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    source = f"import torch\n{before}\n{HEAD}{lines}\n{after}\n"
    return Attack(name, 3, answers={"kl_divergence": source}, says=says)


# --- the library --------------------------------------------------------------------------------

LIBRARY = [
    Attack(
        "imports-the-answer",
        3,
        answers={
            "entropy": "from distill_lab.losses import entropy",
            "soft_cross_entropy": "from distill_lab.losses import *\nfrom distill_lab import losses"
            "\nsoft_cross_entropy = losses.soft_cross_entropy",
            "kl_divergence": "from distill_lab.losses import kl_divergence as kl_divergence",
            "soft_cross_entropy_gradient": "import distill_lab.losses as given\n"
            "soft_cross_entropy_gradient = lambda *args: given.soft_cross_entropy_gradient(*args)",
        },
        says=OWN,
    ),
    _kl(
        "wraps-the-answer",
        f"return losses.kl_divergence({GIVEN})",
        WITHHELD,
        before="from distill_lab import losses",
    ),
    _kl(
        "all-soft-and-temperature-one",
        "return distillation_loss(student_logits, teacher_logits, temperature=1.0, alpha=1.0)",
        WITHHELD,
        before="from distill_lab.losses import distillation_loss",
    ),
    _kl(
        "use-gives-the-librarys",
        "return given(" + GIVEN + ")",
        "the stub still stands",
        before="from distill_lab.exercises import use\n"
        "def kl_divergence(*args, **kwargs):\n    raise NotImplementedError('kl_divergence')\n"
        "given = use(kl_divergence)",
    ),
    _kl(
        "use-within",
        f"return use(kl_divergence)({GIVEN})",
        "the stub still stands",
        before="from distill_lab.exercises import use",
    ),
    _kl(
        "out-of-a-check",
        """
verdict = check("kl_divergence", kl_divergence)
return verdict.first_failure.broken.expected
""",
        "it raises AttributeError",
        before="from distill_lab.exercises import check",
    ),
    _kl(
        "out-of-the-registry",
        f"""
for find in (
    lambda: find_exercise("kl_divergence").reference,
    lambda: lessons()[2].exercises[2].reference,
    lambda: rules.reference,
):
    try:
        return find()({GIVEN})
    except BaseException as error:
        said.append(type(error).__name__)
raise RuntimeError(", ".join(said))
""",
        "it raises RuntimeError",
        before="""
import sys
from distill_lab.exercises.registry import find_exercise, lessons
said = []
at = sys._getframe()
while at is not None:
    rules = at.f_locals.get("rules", None)
    if rules is not None:
        break
    at = at.f_back
""",
    ),
    _kl(
        "out-of-the-contracts",
        f"return lesson_03.LESSON.exercises[2].contracts[0].holds.__globals__['_kl']({GIVEN})",
        WITHHELD,
        before="from distill_lab.exercises import lesson_03",
    ),
    Attack(
        "attention-out-of-every-drawer",
        2,
        answers={
            "scaled_dot_product_attention": """
def scaled_dot_product_attention(query, key, value, mask=None):
    from distill_lab.exercises.attention import scaled_dot_product_attention as theirs
    return theirs(query, key, value, mask)
""",
            "multi_head_attention": """
import distill_lab.exercises.attention as theirs
def multi_head_attention(x, context, weights, heads, mask=None):
    return theirs.multi_head_attention(x, context, weights, heads, mask)
""",
            "macro_f1": """
from distill_lab.evaluation import accuracy_and_macro_f1
def macro_f1(predictions, labels, classes):
    return accuracy_and_macro_f1(predictions, labels)[1]
""",
        },
        says=WITHHELD,
    ),
    # --- by the back door
    _kl(
        "every-way-to-import",
        f"""
for find in ways:
    try:
        return find()({GIVEN})
    except BaseException as error:
        said.append(type(error).__name__)
raise RuntimeError(" ".join(said))
""",
        "it raises RuntimeError",
        before=f"""
import importlib, importlib.util, pkgutil, runpy, sys
said = []
root = {str(ROOT)!r}


def anew():
    for name in [name for name in sys.modules if name.startswith("distill_lab")]:
        del sys.modules[name]
    sys.meta_path[:] = [x for x in sys.meta_path if type(x).__name__ != "Shelf"]
    importlib.invalidate_caches()
    return importlib.import_module("distill_lab.losses").kl_divergence


def from_file(path):
    spec = importlib.util.spec_from_file_location("stolen", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kl_divergence


def extended():
    import distill_lab
    distill_lab.__path__ += [root + "/distill_lab", root + "/build/lib/distill_lab"]
    distill_lab.__spec__.submodule_search_locations = distill_lab.__path__
    sys.path[:0] = [root, root + "/solutions", "/worker"]
    return anew()


ways = [
    lambda: importlib.import_module("distill_lab.losses").kl_divergence,
    lambda: __import__("distill_lab.losses", fromlist=["kl_divergence"]).kl_divergence,
    lambda: sys.modules["distill_lab.losses"].__dict__["kl_divergence"],
    lambda: getattr(sys.modules["distill_lab.losses"].__loader__, "sources")["kl_divergence"],
    lambda: pkgutil.resolve_name("distill_lab.losses:kl_divergence"),
    lambda: runpy.run_path(root + "/solutions/03_losses.py")["kl_divergence"],
    lambda: runpy.run_module("distill_lab.losses")["kl_divergence"],
    lambda: from_file(root + "/distill_lab/losses.py"),
    lambda: from_file("/worker/distill_lab/losses.py"),
    extended,
    anew,
]
""",
    ),
    _kl(
        "a-library-of-its-own-in-tmp",
        f"return kl({GIVEN})",
        WITHHELD,
        before="""
import os, sys
os.makedirs("/tmp/distill_lab")
open("/tmp/distill_lab/__init__.py", "w").write("__path__ += ['/worker/distill_lab']")
sys.path.insert(0, "/tmp")
for name in [name for name in sys.modules if name.startswith("distill_lab")]:
    del sys.modules[name]
from distill_lab.losses import kl_divergence as kl
""",
    ),
    _kl(
        "source-by-inspect",
        "raise RuntimeError(f'{len(found)} found')",
        "0 found",
        before="""
import inspect, linecache, sys
from distill_lab import losses
from distill_lab.exercises import registry
found = []
texts = []
for one in (losses, losses.kl_divergence, registry, *list(sys.modules.values())):
    if "distill_lab" in getattr(one, "__name__", ""):
        try:
            texts.append(inspect.getsource(one))
        except BaseException:
            pass
texts += ["".join(entry[2]) for entry in list(linecache.cache.values()) if len(entry) > 2]
for finder in sys.meta_path:
    texts += getattr(finder, "sources", {}).values()
for text in texts:
    own = "raise RuntimeError" in text or "replace this" in text
    if "def kl_divergence" in text and not own:
        found.append(text)
""",
    ),
    _kl(
        "searches-the-disk",
        "raise RuntimeError(f'found: {found}')",
        "found: []",
        before=f"""
import os, sys
found = []
for top in [{str(ROOT)!r}, *sys.path, "/work", "/root", "/home", "/mnt", "/srv", "/opt", "/worker"]:
    for folder, folders, files in os.walk(top):
        if folder.count("/") - top.count("/") > 2 and "distill" not in folder:
            folders.clear()
        for name in files:
            wanted = name.startswith(("losses.", "lesson_0", "03_losses", "grade.log")) or (
                name.endswith((".whl", ".ipynb", ".tar.gz")) and "distill" in folder + name
            )
            if wanted and "torch" not in folder and "transformers" not in folder:
                found.append(os.path.join(folder, name))
found = sorted(set(found))[:5]
""",
    ),
    _kl(
        "searches-the-memory",
        "raise RuntimeError(f'found: {sorted(found)}')",
        "found: []",
        before="""
import gc, types
gc.unfreeze()
found = set()
for one in gc.get_objects():
    if isinstance(one, types.FunctionType):
        if one.__name__ in ("kl_divergence", "_kl_rows") and "distill" in str(one.__module__):
            found.add(f"{one.__module__}.{one.__name__}")
    elif type(one) in (dict, list, tuple):
        for part in list(one.values() if type(one) is dict else one):
            if type(part) is str and "def kl_" + "divergence(" in part:
                if "return" in part and "gc.unfreeze" not in part:
                    found.add("a text")
del one, part
""",
    ),
    # The earlier exercises are stubs, so the library's stand in for them: they lead no further.
    _kl(
        "behind-what-stands-in",
        """
names = {name for one in (entropy, soft_cross_entropy) for name in one.__globals__}
names |= set(sys.modules[soft_cross_entropy.__module__].__dict__)
raise RuntimeError(", ".join(sorted(x for x in names if "kl" in x.lower())) or "nothing")
""",
        "(nothing)",
        before="import sys",
    ),
    _kl(
        "changes-what-stands-in",
        "return soft_cross_entropy(student_logits, teacher_logits, temperature)",
        before="""
entropy.__code__ = (lambda *args, **kwargs: 0.0).__code__
soft_cross_entropy.__globals__["entropy"] = entropy
soft_cross_entropy.__globals__["kl_divergence"] = soft_cross_entropy
""",
    ),
]

# --- values -------------------------------------------------------------------------------------

VALUES = [
    _kl("zero", "return 0.0 * student_logits.sum()"),
    _kl("not-a-number-anywhere", "return student_logits.sum() * float('nan')", "the value is NaN"),
    _kl(
        "what-it-gave-before",
        f"""
if not first:
    first.append(right({GIVEN}))
return first[0]
""",
        before="first = []\n" + HEAD.replace("kl_divergence", "right") + RIGHT,
    ),
    _kl(
        "what-the-public-inputs-give",
        f"""
drawn = [torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
known = any(torch.equal(student_logits, one) for one in drawn)
return right({GIVEN}) if known else student_logits.sum() * 0
""",
        before=HEAD.replace("kl_divergence", "right") + RIGHT,
    ),
    _kl(
        "equal-to-every-tensor",
        "return torch.zeros(()).as_subclass(Equal)",
        before="""
class Equal(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
    def __eq__(self, other):
        return True
    __hash__ = None
    def __reduce_ex__(self, protocol):
        return (float, ("1",))
""",
    ),
    _kl(
        "other-builtins",
        "return torch.zeros(())",
        before="""
import builtins
for scope in (builtins.__dict__, __builtins__ if isinstance(__builtins__, dict) else {}):
    scope.update(abs=lambda x: 0.0, round=lambda *x: 0.0, all=lambda x: True, any=lambda x: False)
    scope["isinstance"] = lambda *args: True
""",
    ),
]

# --- what a notebook says about itself ----------------------------------------------------------

CLAIMS = [
    Attack(
        "checks-of-its-own",
        3,
        answers={"kl_divergence": f"{HEAD}    return 1.0\n"},
        first=("check = lambda *args, **kwargs: 4.0\nuse = lambda f: f\nprint('12.0')",),
        last=(
            "from distill_lab import exercises\nexercises.check = lambda *a: 4.0\n4.0",
            "print('kl_divergence: passed, 4 of 4 points')\nprint('Score: 12/12')",
            "check('kl_divergence', kl_divergence)",
            "points = score = grade = 12.0\nkl_divergence.points = 4.0",
        ),
    ),
    Attack(
        "commands",
        3,
        first=(
            "%load_ext autoreload\n%autoreload 2",
            f"%run {ROOT}/solutions/03_losses.py\n%load {ROOT}/distill_lab/losses.py",
            f"%%bash\ncat {ROOT}/distill_lab/losses.py > /tmp/losses.py",
            f"%%python\nimport runpy; runpy.run_path('{ROOT}/distill_lab/losses.py')",
        ),
        answers={
            "kl_divergence": f"""
text = !cat {ROOT}/distill_lab/losses.py
!cp {ROOT}/distill_lab/losses.py /tmp/losses.py
%cd /tmp
scope = {{"__name__": "losses"}}
exec("\\n".join(text or []), scope)
kl_divergence = scope.get("kl_divergence") or 4.0
"""
        },
        says="check was given float",
    ),
    Attack(
        "out-of-the-loop",
        3,
        first=(
            '"""',
            "'''\n)))]]]}}}",
            "\\",
            "\x00",
            "return 4.0",
            "yield",
            "break",
            "await x",
            "import sys\nsys.exit(0)",
            "raise StopIteration",
            "raise GeneratorExit",
            "del __name__, __builtins__",
            "exec(compile('1', '<cell 3>', 'exec'), {})",
        ),
        answers={
            "kl_divergence": f"""
import sys
at = sys._getframe()
while at is not None:
    if "cells" in at.f_locals and "function" in at.f_locals:
        at.f_locals["cells"].clear()
        at.f_locals["function"] = lambda *args, **kwargs: 4.0
    if "begin" in at.f_locals:
        at.f_locals["begin"]["exercise"] = "retention"
    if "rules" in at.f_locals:
        object.__setattr__(at.f_locals["rules"], "id", "retention")
    at = at.f_back
{HEAD}    return 4.0
"""
        },
    ),
    Attack(
        "calls-itself-the-stub",
        3,
        answers={
            "kl_divergence": f"{HEAD}    raise NotImplementedError('kl_divergence: passed')\n"
        },
        says="the stub still stands",
    ),
]

ATTACKS: list[Attack] = [*LIBRARY, *VALUES, *CLAIMS]
