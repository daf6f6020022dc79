"""Find what students handed in: in a folder, or in the ZIP of a learning platform.

Nothing is unpacked, no link is followed, and whatever names a file has are text to look at.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from distill_lab.course.notebooks import ANSWER_PREFIX
from distill_lab.course.repair import (
    LARGEST_NOTEBOOK,
    Cell,
    Script,
    Unreadable,
    read_script,
    too_large,
)
from distill_lab.course.results import JOINERS
from distill_lab.errors import UserError
from distill_lab.exercises import registry
from distill_lab.exercises.registry import Lesson

__all__ = [
    "Cell",
    "Script",
    "Submission",
    "Unreadable",
    "find_submissions",
    "folder_names",
    "read_script",
]

LARGEST_TOTAL = 2_000_000_000  # bytes of all notebooks, unpacked: they are held in memory
LARGEST_RATIO = 500  # of a notebook in a ZIP to what it is packed to
LARGEST_READ = 24_000_000  # bytes of a ZIP at once: a notebook, or its list of entries
MOST_ENTRIES = 100_000  # files and folders
DEEPEST = 12  # folders in one another
LONGEST_PATH = 1_024  # characters, in a ZIP
MOST_NAMED = 5  # files in one message
EXPECTED = (
    "expected STUDENT/NN_name.ipynb, nbgrader's STUDENT/NN_name/NN_name.ipynb, or the files or "
    "the ZIP that Moodle or Canvas exports"
)

# "Full Name_1234567_assignsubmission_file_": a folder, or how a file's name begins. Groups' work
# may come without the number.
_MOODLE = re.compile(r"(.+?)(?:_(\d+))?_assignsubmission_file(?:_(.*))?", re.DOTALL)
# "lastnamefirst_LATE_1234_56789_file.ipynb"; without names "anon_x1Y2z_56789_file.ipynb".
_CANVAS = re.compile(r"(?:(\w+?)_)?(?:LATE_)?(?:(\d+)|(anon_\w+?))_\d+_.+", re.DOTALL)
_PASSED_OVER = re.compile(r"\..*|__MACOSX|.*\.attempt-\d+\.ipynb", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(
    rb'"(?:grade_id|id)"\s{0,9}:\s{0,9}"' + ANSWER_PREFIX.encode() + rb'(\w{1,100})"'
)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.I)


@dataclass(frozen=True)
class Submission:
    """A notebook as a student handed it in.

    Attributes:
        student: As the instructor will see it: one printable line.
        lesson: The lesson's name, ``"03_losses"``.
        origin: Where it was found, for messages.
        content: The file; empty where it could not be read.
        problem: Why it cannot be graded, in one line.
    """

    student: str
    lesson: str
    origin: str
    content: bytes
    problem: str = ""

    @cached_property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()


def find_submissions(
    path: Path, lesson: Lesson | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Submission]:
    """Find the notebooks of all students.

    Whose a notebook is, its path says. Which lesson's, its path says too, else the marks of its
    answers; with ``lesson`` given, one that has neither is taken to be that lesson's, if its
    student has no other. Two students of one name are told apart by the platform's number:
    ``Wei Wang_1234567``. A notebook that cannot be read is a submission with a ``problem``.

    Args:
        path: A folder or a ZIP. In it ``STUDENT/NN_name.ipynb``, nbgrader's
            ``STUDENT/ASSIGNMENT/NOTEBOOK.ipynb``, or what Moodle or Canvas exports.
        lesson: Only this one's.
        say: Told of what was passed over.

    Returns:
        By student and lesson.

    Raises:
        UserError: There is none, the ZIP is damaged, it is too much, or a student has two
            notebooks of one lesson.
    """
    with _files(path, say) as files:
        if not files:
            raise UserError(f"no notebook in {_shown(str(path))}; {EXPECTED}")
        inside = _is_moodles(files)
        owners = [(_owner(file.parts, inside), file) for file in files]
        owned = [(owner, file) for owner, file in owners if owner]
        strays = [file.origin for owner, file in owners if not owner]
        found = list(_submissions(owned, lesson))
    wanted = [lesson.name] if lesson else _lesson_names()
    found = _taken_as(lesson, found) if lesson else found
    unplaced = [s.origin for _, s in found if not s.lesson]
    submissions = _told_apart([(owner, s) for owner, s in found if s.lesson in wanted])
    if not submissions:
        what = f"of {lesson.name}" if lesson else "of a student and a lesson that can be told"
        named = _named(unplaced or strays or [file.origin for file in files])
        raise UserError(f"no notebook {what} in {_shown(str(path))} ({named}); {EXPECTED}")
    if strays:
        say(f"passed over, as no student can be told: {_named(strays)}")
    if unplaced:
        say(f"passed over, as no lesson can be told: {_named(unplaced)}")
    return _without_doubles(sorted(submissions, key=lambda s: (s.student, s.lesson, s.origin)))


# --- whose and which ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A notebook that was found.

    Attributes:
        parts: Its path, by which its student is told.
        read: Gives its content. Raises ``Unreadable``.
        origin: Its path, for messages.
    """

    parts: tuple[str, ...]
    read: Callable[[], bytes]
    origin: str


@dataclass(frozen=True)
class _Owner:
    """Whose a notebook is.

    Attributes:
        name: The student's.
        number: Which the platform gives beside it, if it does.
        names: What may name the lesson: the file, then folders from the inside out.
    """

    name: str
    number: str
    names: tuple[str, ...]


def _is_moodles(files: Sequence[_File]) -> bool:
    """Whether Moodle has named everything. Else a student may have named it so, for another."""
    inside = [file.parts for file in files if len(file.parts) > 1]
    return bool(inside) and all(any(map(_MOODLE.fullmatch, parts)) for parts in inside)


def _owner(parts: Sequence[str], inside: bool) -> _Owner | None:
    """Tell whose a notebook is by its path.

    Args:
        inside: Whether Moodle's names may stand in folders that are called otherwise.
    """
    *folders, file = parts or ("",)
    for k, part in enumerate(parts):
        if found := _MOODLE.fullmatch(part):
            others = (*folders[:k], *folders[k + 1 :], file if k < len(folders) else found[3] or "")
            return _of(found[1], found[2] or "", others)
        if not inside and _words(part) not in _lesson_names():
            break
    students = [k for k, folder in enumerate(folders) if _words(folder) not in _lesson_names()]
    if students:
        k = students[0]
        return _of(folders[k], "", (*folders[:k], *folders[k + 1 :], file))
    found = _CANVAS.fullmatch(file)
    if found and (found[1] or found[3]):
        return _of(found[3] or found[1], found[2] or "", parts)
    return None


def _of(name: str, number: str, names: Sequence[str]) -> _Owner | None:
    student = _line(name)
    return _Owner(student, number, tuple(reversed(names))) if student else None


def _submissions(
    owned: Sequence[tuple[_Owner, _File]], lesson: Lesson | None
) -> Iterator[tuple[_Owner, Submission]]:
    """Read notebooks, but for those that say they are another lesson's.

    Where no lesson can be told, it is empty.

    Raises:
        UserError: They are too much.
    """
    total = 0
    for owner, file in owned:
        name = _lesson_named(owner.names)
        if lesson is not None and name not in ("", lesson.name):
            continue
        try:
            content, problem = file.read(), ""
        except Unreadable as error:
            content, problem = b"", str(error)
        total += len(content)
        if total > LARGEST_TOTAL:
            raise UserError(
                f"the notebooks have more than {LARGEST_TOTAL / 1e9:g} GB together; grade one "
                "lesson at a time with --lesson, or fewer students"
            )
        name = name or _lesson_inside(content)
        yield owner, Submission(owner.name, name, file.origin, content, problem)


def _lesson_names() -> list[str]:
    return [lesson.name for lesson in registry.lessons()]


def _words(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower())


def _lesson_named(names: Sequence[str]) -> str:
    """Give the lesson that the first name has in it; ``""`` where none has exactly one."""
    for name in names:
        found = [lesson for lesson in _lesson_names() if f"_{lesson}_" in f"_{_words(name)}_"]
        if len(found) == 1:
            return found[0]
    return ""


def _lesson_inside(content: bytes) -> str:
    """Give the lesson that most marks in a notebook belong to, or ``""``."""
    if b"\0" in content[:4]:  # two or four bytes a character
        content = content.decode(json.detect_encoding(content), "ignore").encode("utf-8", "ignore")
    known = {x.id: lesson.name for lesson in registry.lessons() for x in lesson.exercises}
    marks = [mark.decode("ascii", "ignore") for mark in _MARK.findall(content)]
    counts = Counter(known[mark] for mark in marks if mark in known)
    return max(sorted(counts), key=lambda name: counts[name], default="")


def _taken_as(
    lesson: Lesson, found: Sequence[tuple[_Owner, Submission]]
) -> list[tuple[_Owner, Submission]]:
    """Take notebooks of no lesson as this one's where a student has no other of it."""
    have = {(owner.name, owner.number) for owner, s in found if s.lesson == lesson.name}
    return [
        (
            owner,
            s if s.lesson or (owner.name, owner.number) in have else replace(s, lesson=lesson.name),
        )
        for owner, s in found
    ]


def _told_apart(found: Sequence[tuple[_Owner, Submission]]) -> list[Submission]:
    """Add the platform's number to names that two students have."""
    numbers = defaultdict(set)
    for owner, submission in found:
        numbers[owner.name, submission.lesson].add(owner.number)
    shared = {name for (name, _), several in numbers.items() if len(several) > 1}
    return [
        replace(s, student=f"{s.student}_{owner.number}")
        if owner.name in shared and owner.number
        else s
        for owner, s in found
    ]


def _without_doubles(submissions: Sequence[Submission]) -> list[Submission]:
    """Keep one of several copies.

    Raises:
        UserError: A student has two different notebooks of one lesson.
    """
    kept: dict[tuple[str, str], Submission] = {}
    clashes = []
    for new in submissions:
        old = kept.setdefault((new.student, new.lesson), new)
        if (old.content, old.problem) != (new.content, new.problem):
            clashes.append(f"{old.student} has {old.origin} and {new.origin}")
    if clashes:
        raise UserError(
            f"two notebooks of one student and lesson: {_named(clashes)}; leave the one that counts"
        )
    return list(kept.values())


# --- files --------------------------------------------------------------------------------------


@contextmanager
def _files(path: Path, say: Callable[[str], None]) -> Iterator[list[_File]]:
    """Give the notebooks in a folder or a ZIP, by path; they can be read inside the block.

    Raises:
        UserError: It is neither, it is damaged, or it is too much.
    """
    shown = _shown(str(path))
    if path.is_dir():
        if (path / "nbgrader_config.py").is_file():
            raise UserError(f"{shown} is nbgrader's whole course; give its folder submitted")
        yield sorted(_in_folder(path, say), key=lambda file: file.parts)
    elif path.is_file():
        with _opened(path) as archive:
            yield sorted(_unwrapped(_in_zip(archive, say)), key=lambda file: file.parts)
    else:
        raise UserError(f"{shown} does not exist or is no plain file; give a folder or a ZIP")


def _check_number(number: int) -> None:
    if number > MOST_ENTRIES:
        raise UserError(
            f"there are more than {MOST_ENTRIES:,} files and folders; give a folder or a ZIP with "
            "nothing but submissions"
        )


def _is_notebook(name: str) -> bool:
    return name.lower().endswith(".ipynb") and not _PASSED_OVER.fullmatch(name)


def _in_folder(root: Path, say: Callable[[str], None]) -> list[_File]:
    """Find notebooks in a folder and those in it; links to folders are not followed.

    Raises:
        UserError: There are too many files.
    """
    files, links, number = [], [], 0
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        try:
            with os.scandir(root.joinpath(*parts)) as entries:
                for entry in entries:
                    number += 1
                    _check_number(number)
                    here = (*parts, entry.name)
                    if _PASSED_OVER.fullmatch(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting += [here] if len(here) < DEEPEST else []
                    elif _is_notebook(entry.name):
                        read = partial(_read_file, root.joinpath(*here))
                        files.append(_File(here, read, _shown("/".join(here))))
                    elif entry.is_symlink():
                        links.append(_shown("/".join(here)))
        except OSError as error:
            where = _shown(str(root.joinpath(*parts)))
            if not parts:
                raise UserError(f"{where} cannot be read ({error.strerror})") from error
            say(f"passed over, as it cannot be read ({error.strerror}): {where}")
    if links:
        say(f"passed over, as links are not followed: {_named(links)}")
    return files


def _read_file(path: Path) -> bytes:
    """Read a plain file.

    Raises:
        Unreadable: It is none, it is too large, or reading fails.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # those there are
        flags |= getattr(os, name, 0)
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise Unreadable("the notebook is a link, which is not followed")
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Unreadable("the notebook is no plain file")
        with os.fdopen(os.open(path, flags), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Unreadable("the notebook is no plain file")
            return _capped(file.read(LARGEST_NOTEBOOK + 1), about.st_size)
    except OSError as error:
        raise Unreadable(f"the notebook cannot be read ({error.strerror})") from error


def _capped(content: bytes, size: int) -> bytes:
    if len(content) > LARGEST_NOTEBOOK:
        raise Unreadable(too_large(max(size, len(content))))
    return content


class _Bounded(io.BufferedReader):
    """A file of which nobody reads much at once, as a ZIP's list of entries could ask for."""

    def read(self, size: int | None = -1, /) -> bytes:
        rest = size is None or size < 0
        data = super().read(LARGEST_READ + 1 if rest else min(size or 0, LARGEST_READ + 1))
        if len(data) > LARGEST_READ:
            raise zipfile.BadZipFile("too much at once")
        return data


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP.

    Raises:
        UserError: It is none, or damaged.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_Bounded(io.FileIO(path)))
            archive = stack.enter_context(zipfile.ZipFile(file))
        except Exception as error:  # of many kinds, as the file may hold anything
            raise UserError(
                f"{_shown(str(path))} is no ZIP, or a damaged one ({type(error).__name__}); give "
                "it as it was downloaded, or a folder"
            ) from error
        yield archive


def _in_zip(archive: zipfile.ZipFile, say: Callable[[str], None]) -> list[_File]:
    """Find notebooks in a ZIP.

    Raises:
        UserError: There are too many files.
    """
    _check_number(len(archive.infolist()))
    files, leading_out = [], []
    for entry in archive.infolist():
        parts = tuple(re.split(r"[/\\]", entry.orig_filename))
        if not _is_notebook(parts[-1]):  # nor a folder: its name ends in a slash
            continue
        if _leads_out(parts) or len(entry.orig_filename) > LONGEST_PATH:
            leading_out.append(_shown(entry.orig_filename))
        elif not any(map(_PASSED_OVER.fullmatch, parts)):
            read = partial(_read_entry, archive, entry)
            files.append(_File(parts, read, _shown("/".join(parts))))
    if leading_out:
        say(f"passed over, as their paths lead out of the ZIP: {_named(leading_out)}")
    return files


def _leads_out(parts: Sequence[str]) -> bool:
    """Whether a path is absolute, has a drive or a NUL, or goes up."""
    return any(part in ("", ".", "..") or "\0" in part for part in parts) or ":" in parts[0][:2]


def _unwrapped(files: Sequence[_File]) -> list[_File]:
    """Leave out a folder around everything, where others in it can be the students."""
    if _is_moodles(files):
        return list(files)
    students = {owner.name if (owner := _owner(file.parts, False)) else "" for file in files}
    inside = [replace(file, parts=file.parts[1:]) for file in files]
    around = students == {_line(file.parts[0]) for file in files} and len(students) == 1
    return inside if around and all(_owner(file.parts, False) for file in inside) else list(files)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Read a file of a ZIP.

    Raises:
        Unreadable: It is a link, encrypted, too large or damaged.
    """
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if stat.S_ISLNK(kind):
        raise Unreadable("the notebook is a link, which is not followed")
    if kind and not stat.S_ISREG(kind):
        raise Unreadable("the notebook is no plain file")
    if entry.flag_bits & 0x1:
        raise Unreadable("the notebook is encrypted")
    if entry.file_size > LARGEST_NOTEBOOK:
        raise Unreadable(too_large(entry.file_size))
    if entry.file_size > LARGEST_RATIO * max(entry.compress_size, 1):
        raise Unreadable(f"the notebook unpacks to more than {LARGEST_RATIO} times its size")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unreadable("the notebook is packed in a way that is not read; pack it with deflate")
    try:
        with archive.open(entry) as file:
            content = file.read(LARGEST_NOTEBOOK + 1)
    except Exception as error:  # of many kinds, as the file may hold anything
        raise Unreadable("the notebook is damaged in the ZIP") from error
    return _capped(content, entry.file_size)


# --- names --------------------------------------------------------------------------------------


def folder_names(students: Iterable[str]) -> dict[str, str]:
    """Give each student's folder its name, for any texts.

    The names are good on every common file system, and differ even where the case of letters or the
    way accents are written makes no difference. A plain name (``ada_l1``, ``Ada Lovelace``) is the
    folder's as it is; others, and those that a file system may take for one, end in ``~`` and a
    fingerprint.
    """
    different = set(students)
    alike = Counter(map(_folded, different))
    names = {}
    for student in different:
        plain = _portable(student)
        alone = student == plain and alike[_folded(student)] == 1
        names[student] = plain if alone else _with_fingerprint(plain, student)
    return names


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _portable(text: str) -> str:
    plain = "".join(
        c if c.isalnum() or c in " _-.,'()" or unicodedata.category(c)[0] == "M" else "_"
        for c in unicodedata.normalize("NFC", text)
    )[:80]
    plain = re.sub(r"^[ .\-]|[ .]$", "_", plain)
    if not plain or _DEVICE.fullmatch(plain):
        plain = f"_{plain}"
    while len(plain.encode("utf-8")) > 160:
        plain = plain[:-1]
    return plain


def _with_fingerprint(plain: str, text: str) -> str:
    return f"{plain}~{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _line(text: str) -> str:
    """Give a text as one line in which nothing is hidden and no folder begins."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(
        c if (c.isprintable() or c in JOINERS) and c not in "/\\" else f"<U+{ord(c):04X}>"
        for c in text
    )


def _shown(path: str) -> str:
    """Give a path for a message."""
    text = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in path)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-99:]}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
