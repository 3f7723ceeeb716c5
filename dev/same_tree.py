"""
Did an edit change only layout, comments and docstrings?

This compares the syntax trees of Python files with those that they had in a commit.

    python dev/same_tree.py HEAD common.py train/*.py
"""
import ast
import subprocess
import sys


def tree(source):
    """The syntax tree as text, without docstrings and positions."""
    root = ast.parse(source)
    for node in ast.walk(root):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                body[0].value.value = ""
    return ast.dump(root)


def main():
    commit, *files = sys.argv[1:]
    changed = []
    for file in files:
        before = subprocess.run(["git", "show", f"{commit}:{file}"], capture_output=True,
                                check=True)
        with open(file, "rb") as f:
            if tree(before.stdout) != tree(f.read()):
                changed.append(file)
    print(f"{len(files)} files, {len(changed)} whose syntax tree changed: {' '.join(changed)}")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
