"""Count the project's Python: tokens, code lines and files, of the product and of its tests.

    python tools/tokens.py            # the totals that stand in CONTRIBUTING.md
    python tools/tokens.py --files    # and each file's

A token is one of Python's own (tokenize) that is neither a comment, a line end, an indentation nor
part of a docstring. A code line is a line that holds one. The product is all but tests/ and tools/.
"""

import argparse
import ast
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENCODING", "ENDMARKER")


def docstring_lines(source):
    """The numbers of all lines that belong to a string which stands for itself."""
    lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                lines.update(range(node.lineno, node.end_lineno + 1))
    return lines


def count(path):
    """Counter of "tokens", "code lines", "lines" and "files" (1) of one Python file."""
    source = path.read_text("utf-8")
    documented = docstring_lines(source)
    tokens = 0
    code = set()
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if tokenize.tok_name[token.type] in LAYOUT or token.start[0] in documented:
                continue
            tokens += 1
            code.update(range(token.start[0], token.end[0] + 1))
    lines = len(source.splitlines())
    return Counter({"tokens": tokens, "code lines": len(code), "lines": lines, "files": 1})


def python_files():
    """The Python files that git knows, relative to the project's folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in listed.stdout.split() if (ROOT / name).exists())


def part_of(name):
    """The part of the project that a file is counted in."""
    folder = name.split("/")[0]
    return folder if folder in ("tests", "tools") else "product"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", action="store_true", help="print each file's figures as well")
    args = parser.parse_args()
    totals = {"product": Counter(), "tests": Counter(), "tools": Counter()}
    for name in python_files():
        counted = count(ROOT / name)
        totals[part_of(name)] += counted
        if args.files:
            print(f"{counted['tokens']:8,} {counted['lines']:6,}  {name}")
    for part, total in totals.items():
        density = total["tokens"] / max(1, total["code lines"])
        print(
            f"{part}: {total['tokens']:,} tokens in {total['files']} files, {total['lines']:,} "
            f"lines, {density:.2f} tokens a code line"
        )


if __name__ == "__main__":
    main()
