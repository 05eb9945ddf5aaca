# SPDX-License-Identifier: MIT
"""Measure the shape of oauth_session.py, and fail where it leaves a limit:  python3 .ci/shape.py [FILE]"""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from pathlib import Path

# The design wants 1,800 lines, 80 KB and 1,200 lines of code. The file has never been that small; so these are what it
# has reached, and may only become less.
LINES = 3373  # of the file, docstrings, comments and licence included
BYTES = 171_300
CODE = 2397  # lines that hold more than prose
FUNCTION = 50  # lines of one function, docstring included
ROOMS = (
    "Errors", "Token", "OAuthSession and Response", "OAuthHandler", "TokenSource", "FileCache", "ClientCredentials",
    "Transport", "Demo server",
)  # fmt: skip
BANNER = r"(?=.{120}$)# ---- [A-Z].*[^ -] -+"

FILE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "oauth_session.py")
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


def lines(node):
    return range(node.lineno, node.end_lineno + 1)


def undocumented(tree):
    """What a user meets by name, and finds nothing about in help()."""
    assigned = {getattr(n.targets[0], "id", ""): n.value for n in tree.body if isinstance(n, ast.Assign)}
    public = ast.literal_eval(assigned["__all__"])
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *DEFS)) and node.name in public:
            methods = [one for one in node.body if isinstance(one, DEFS) and not one.name.startswith("_")]
            for one in [node, *methods] if isinstance(node, ast.ClassDef) else [node]:
                setter = any(getattr(decorator, "attr", "") == "setter" for decorator in one.decorator_list)
                if ast.get_docstring(one) is None and not setter:
                    yield node.name if one is node else f"{node.name}.{one.name}"


def misplaced(banners):
    """Banners of another form, and rooms that are missing, unknown or out of order."""
    for number, line in banners:
        if not re.fullmatch(BANNER, line):
            yield f"line {number}: a banner that is not 120 columns of '# ---- Room: what it does ---'"
    rooms = [re.match(r"\W*(.*?)(?:[:,;]|\W*$)", line)[1] for _, line in banners]
    yield from (f"room {name!r} is missing" for name in ROOMS if name not in rooms)
    yield from (f"room {name!r} is not one of ROOMS" for name in rooms if name not in ROOMS)
    known = [name for name in rooms if name in ROOMS]
    if known != sorted(known, key=ROOMS.index):
        yield f"the rooms are out of order: {', '.join(known)}"


text = FILE.read_text("utf-8")
tree = ast.parse(text)
with FILE.open("rb") as file:
    tokens = list(tokenize.tokenize(file.readline))[:-1]
nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, *DEFS))]
functions = sorted(((len(lines(n)), n.name, n.lineno) for n in nodes if isinstance(n, DEFS)), reverse=True)
docstrings = {line for node in nodes if ast.get_docstring(node) is not None for line in lines(node.body[0])}
code = {line for one in tokens if one.type not in SILENT for line in range(one.start[0], one.end[0] + 1)} - docstrings
# The licence's text, behind the last line of code, explains nothing.
comments = {one.start[0] for one in tokens if one.type == tokenize.COMMENT and one.start[0] < max(code)}
banners = [pair for pair in enumerate(text.splitlines(), 1) if re.match(r"#+ ?([-=*#~])\1", pair[1])]
sizes = ("lines", text.count("\n"), LINES), ("bytes", len(text.encode()), BYTES), ("lines of code", len(code), CODE)

for name, size, limit in sizes:
    print(f"{size:>7,}  {name}, of {limit:,}")
print("{:>7,}  functions; the longest has {} lines: {} in line {}".format(len(functions), *functions[0]))
print(f"{len(docstrings | comments) / len(code):>7.2f}  lines of docstring or comment to a line of code")
faults = [f"{size:,} {name}, which are {size - limit:,} too many" for name, size, limit in sizes if size > limit]
faults += [f"line {at}: {name} has {size} lines, of {FUNCTION}" for size, name, at in functions if size > FUNCTION]
faults += [f"{name} has no docstring" for name in undocumented(tree)]
faults += misplaced(banners)
for fault in faults:
    print(f"shape: {fault}", file=sys.stderr)
sys.exit(1 if faults else 0)
