"""Programs: what an answer has of code, and the tests of a reference as something that can be run and fail."""

from __future__ import annotations

import ast
import re

_fence = re.compile(r"```[ \t]{0,3}([\w+-]{0,20})[^\n]{0,80}\n(.*?)(?:```|\Z)", re.DOTALL)
_defines = re.compile(r"^\s{0,12}(?:async\s+)?(?:def|class)\s", re.MULTILINE)
_checked = re.compile(r"^check\((\w+)\)\s*$", re.MULTILINE)

LANGUAGES = frozenset({"", "python", "py", "python3"})


def program(question: str, answer: str, reference: str) -> str | None:
    """The code of an answer: its last block that defines something, or all of it without blocks; None: it is empty.

    Where the reference checks a function that the question begins, as HumanEval's do, what stands before it there
    (imports, helpers) stands before the answer, and an answer that is its body alone stands below it.
    """
    blocks: list[str] = [body for name, body in _fence.findall(answer) if name.lower() in LANGUAGES]
    defining = [body for body in blocks if _defines.search(body)]
    code = (defining or blocks or [answer])[-1]
    if not code.strip():
        return None
    wanted = _checked.search(reference)
    begun = re.search(rf"^(?:async\s+)?def\s+{wanted[1]}\b", question, re.MULTILINE) if wanted else None
    if wanted is None or begun is None:
        return code
    if not re.search(rf"^(?:async\s+)?def\s+{wanted[1]}\b", code, re.MULTILINE):
        body = code if code[:1].isspace() else "".join(f"    {line}\n" for line in code.splitlines())
        return f"{question.rstrip()}\n{body.lstrip(chr(10))}"
    before = question[: begun.start()]
    return f"{before}\n{code}" if _parses(before) else code


def tests(reference: str) -> str:
    """Tests that run as they stand: functions `test...` that nothing calls are called. ValueError: nothing can fail."""
    try:
        tree = ast.parse(reference)
    except (SyntaxError, ValueError) as error:
        raise ValueError("the tests are no Python") from error
    defined = [each for each in tree.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
    outside = [each for each in tree.body if each not in defined and not isinstance(each, ast.ClassDef)]
    called = {
        call.func.id
        for each in outside
        for call in ast.walk(each)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    waiting = [each for each in defined if each.name.startswith("test") and each.name not in called]
    if any(isinstance(each, ast.AsyncFunctionDef) or _needs(each) for each in waiting):
        raise ValueError("a test takes arguments or is asynchronous")
    asserts = any(isinstance(node, ast.Assert) for each in outside for node in ast.walk(each))
    if not (waiting or called or asserts):
        raise ValueError("the tests call nothing: add check(NAME)" if defined else "there are no tests")
    return "\n".join([reference, *(f"{each.name}()" for each in waiting)])


def _needs(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    told = function.args
    given = len(told.posonlyargs) + len(told.args) - len(told.defaults)
    return given > 0 or any(default is None for default in told.kw_defaults)


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True
