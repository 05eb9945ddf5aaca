# SPDX-License-Identifier: MIT
"""Measure how much there is to read in oauth_session.py, and fail where a limit is exceeded.

    python3 .ci/shape.py [FILE]

Formatting does not count: nodes are AST nodes without docstrings, annotations and expression contexts; branches are
if, for, while, try, except, with, conditional expressions, boolean operators and comprehensions; density is nodes per
statement. A room begins with a banner, "# ---- Name: what lives there ---", and uses only rooms above it.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

# The limits of the design; it allows 6.4 nodes per statement. The budgets of the rooms are what they have reached, and
# may only fall.
NODES, BRANCHES, DENSITY = 11_200, 520, 5.8
FUNCTION = 50  # lines of the longest function, docstring included
COLUMNS = 100
BUDGETS = {  # nodes by room, from the top of the file to its end
    "Head": 125,
    "Errors": 540,
    "URLs": 510,
    "Connections": 2_135,
    "Token": 420,
    "ClientCredentials": 1_845,
    "Caches": 775,
    "TokenSource": 962,
    "OAuthHandler": 1_060,
    "OAuthSession": 1_520,
    "DemoServer": 505,
    "Command line": 845,
}

FILE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "oauth_session.py")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
BRANCHING = (
    ast.If, ast.For, ast.While, ast.Try, ast.ExceptHandler, ast.With, ast.IfExp, ast.BoolOp, ast.comprehension,
)  # fmt: skip


def without_prose(tree: ast.Module) -> ast.Module:
    """Take docstrings and annotations out of a tree: they explain the code, and are not counted."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, None)
    return tree


def measure(nodes: list[ast.stmt]) -> tuple[int, int, float]:
    """Return nodes, branches and nodes per statement."""
    found = [one for one in ast.walk(ast.Module(nodes, [])) if not isinstance(one, (ast.expr_context, ast.Module))]
    statements = sum(isinstance(one, ast.stmt) for one in found)
    return len(found), sum(isinstance(one, BRANCHING) for one in found), len(found) / max(statements, 1)


def split(text: str, tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the statements of each room."""
    matches = [(n, re.match(r"# ---- ([^:]+?)(:| -)", line)) for n, line in enumerate(text.splitlines(), 1)]
    banners = [(number, match[1]) for number, match in matches if match]
    rooms: dict[str, list[ast.stmt]] = {"Head": [], **{name: [] for _, name in banners}}
    for node in tree.body:
        rooms[[name for start, name in [(0, "Head"), *banners] if start <= node.lineno][-1]].append(node)
    return rooms


def names_defined(node: ast.stmt) -> list[str]:
    if isinstance(node, DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [one.id for target in targets if target is not None for one in ast.walk(target) if isinstance(one, ast.Name)]


def used_from_below(rooms: dict[str, list[ast.stmt]]) -> list[str]:
    """Return a fault for each name that a room uses and a later room defines."""
    order = list(rooms)
    home = {name: room for room in order for node in rooms[room] for name in names_defined(node)}
    faults = []
    for room in order:
        used = {one.id for node in rooms[room] for one in ast.walk(node) if isinstance(one, ast.Name)}
        below = sorted(name for name in used if name in home and order.index(home[name]) > order.index(room))
        faults += [f"room {room} uses {name}, which is defined below it, in {home[name]}" for name in below]
    return faults


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public names about which help() says nothing."""
    assigned = {getattr(node.targets[0], "id", ""): node.value for node in tree.body if isinstance(node, ast.Assign)}
    public = ast.literal_eval(assigned["__all__"])
    found = []
    for node in tree.body:
        if isinstance(node, DEFINITIONS) and node.name in public:
            members = node.body if isinstance(node, ast.ClassDef) else []
            for one in [node, *[member for member in members if isinstance(member, FUNCTIONS)]]:
                hidden = one is not node and one.name.startswith("_")
                setter = any(getattr(decorator, "attr", "") == "setter" for decorator in one.decorator_list)
                if not (hidden or setter or ast.get_docstring(one)):
                    found.append(node.name if one is node else f"{node.name}.{one.name}")
    return found


def main() -> int:
    text = FILE.read_text("utf-8")
    bare = ast.parse(text)
    faults = [f"{name} has no docstring" for name in undocumented(bare)]
    lengths = [(one.end_lineno - one.lineno + 1, one.name) for one in ast.walk(bare) if isinstance(one, FUNCTIONS)]
    faults += [f"{name} has {length} lines, of {FUNCTION}" for length, name in lengths if length > FUNCTION]
    wide = [number for number, line in enumerate(text.splitlines(), 1) if len(line) > COLUMNS]
    faults += [f"line {number} has more than {COLUMNS} columns" for number in wide]

    tree = without_prose(bare)
    rooms = split(text, tree)
    for room, body in rooms.items():
        nodes, branches, density = measure(body)
        budget = BUDGETS.get(room, 0)
        print(f"{nodes:>7,} nodes of {budget:>6,} {branches:>6,} branches {density:>5.1f} density  {room}")
        if nodes > budget:
            faults.append(f"room {room} has {nodes:,} nodes, of {budget:,}")
    if list(rooms) != list(BUDGETS):
        faults.append(f"the rooms must be {', '.join(BUDGETS)}, in this order, not {', '.join(rooms)}")
    faults += used_from_below(rooms)

    nodes, branches, density = measure(tree.body)
    print(f"{nodes:>7,} nodes of {NODES:>6,} {branches:>6,} branches {density:>5.1f} density  the whole file")
    for name, size, limit in (("nodes", nodes, NODES), ("branches", branches, BRANCHES), ("density", density, DENSITY)):
        if size > limit:
            faults.append(f"the file has {name} {size:,.6g}, of {limit:,}")
    for fault in faults:
        print(f"shape: {fault}", file=sys.stderr)
    return 1 if faults else 0


sys.exit(main())
