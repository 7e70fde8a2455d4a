"""Which block of an answer is the program."""

from __future__ import annotations

import pytest

from posttrain_rewards._fences import block


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("```python\nx\n```", "x\n"),
        ("a\n```\nx\n```\nb\n``` \ny\nz\n```\nend", "y\nz\n"),
        ("```py\nx\n```\nOutput:\n```\n4\n```", "x\n"),
        ("```\ny\n```\n```py3\nx\n```\n```\n4\n```", "x\n"),
        ("```\nx\n```\n```text\n4\n```", "x\n"),
        ("```python\nx\n```\n```python\ny", "x\n"),
        ("```python\nx\n```\n```cpp\ny\n```", "x\n"),
        ("```Python3 title\nx\n```", "x\n"),
        ("```python\n```", ""),
        ("  ```python\n  x\n    y\n  ```", "x\n  y\n"),
        ("<think>```python\nno\n```</think>\n```python\nx\n```", "x\n"),
        ("```cpp\nx\n```", None),
        ("x = 1", None),
        ("```python\nx", None),
        ("text ```x``` text", None),
        ("", None),
        ("```\n" * 99_999, ""),
        ("`" * 300_000, None),
        ("```" + " " * 300_000 + "`\n```python\nx\n```", "x\n"),
        (" " * 300_000 + "``x", None),
        ("````python\nx\n```\ny\n````", "x\n```\ny\n"),
        ("~~~python\nx\n```\n~~~", "x\n```\n"),
        ("```python\nx\n~~~\n```", "x\n~~~\n"),
        ("```python:solution.py\nx\n```", "x\n"),
        ("```{python}\nx\n```", "x\n"),
        ("```{.python .numberLines}\nx\n```", "x\n"),
        ("```python3.11\nx\n```", "x\n"),
        ("```pycon\nx\n```", None),
        ("```python-repl\nx\n```", None),
        ("```python\r\nx\r\n```\r\n", "x\r\n"),
        ("```python\n\ufeffx\n```", "x\n"),
        ('```python\n"""\n    ```\n    y\n    ```\n"""\n```', '"""\n    ```\n    y\n    ```\n"""\n'),
        ('```python\nx = """\n   \n"""\n```', 'x = """\n   \n"""\n'),
        ("- so\n\t```python\n\tx\n\n\t\ty\n\t```", "x\n\n\ty\n"),
    ],
)
def test_the_last_block_counts(completion: str, code: str | None) -> None:
    assert block(completion) == code
