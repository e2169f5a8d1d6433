"""Arrays without a reference count must be kept alive by somebody else."""

from __future__ import annotations

import ast
from pathlib import Path

from tsengine.kernels import axiscode

KERNELS = Path(axiscode.__file__).parent


def calls(function, name):
    """``(line, name of the array)`` of each ``name(array)`` or ``name(array[...])``."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
            (array,) = node.args
            base = array.value if isinstance(array, ast.Subscript) else array
            yield node.lineno, base.id


def dangling(source):
    """``(line, name)`` of each local array that is borrowed and may be freed before its last use.

    The caller keeps parameters. Others need a `hold` in the body of the function itself, with no
    way out before it.
    """
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = {argument.arg for argument in function.args.args}
        ends = {
            name: line
            for statement in function.body
            if isinstance(statement, ast.Expr)
            for line, name in calls(statement, "hold")
        }
        exits = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Return)]
        for line, name in calls(function, "unowned"):
            end = ends.get(name, 0)
            if name not in parameters and (end < line or any(line <= at < end for at in exits)):
                yield line, name


def test_local_arrays_are_held_as_long_as_they_are_borrowed():
    """Numba frees a local array right after the last use of its name: long before the loop ends."""
    found = {path.name: list(dangling(path.read_text())) for path in KERNELS.glob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_rule_sees_what_dangles():
    source = """
def f(a):
    s, t, u, w = np.empty(1), np.empty(1), np.empty(1), np.empty(1)
    x = unowned(a[0]) + unowned(s) + unowned(t[1]) + unowned(u)
    hold(u)
    if x:
        hold(w)
        return 1
    hold(t)
    return x
def g():
    s = np.empty(1)
    x = work(unowned(s))
    hold(s)
    return x
"""
    assert sorted(dangling(source)) == [(4, "s"), (4, "t")]
