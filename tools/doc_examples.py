"""Examples in docstrings become code on the site: griffe, which reads the docstrings, takes them for text."""

from __future__ import annotations

from typing import Any

import griffe


def fenced(text: str) -> str:
    """A docstring with its examples, up to the next empty line each, in fences.

    >>> print(fenced("Adds.\\n\\n>>> 1 + 1\\n2\\n\\nDone."))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    Done.
    """
    blocks = text.split("\n\n")
    return "\n\n".join(f"```pycon\n{block}\n```" if block.startswith(">>>") else block for block in blocks)


class FencedExamples(griffe.Extension):
    """Puts the examples of every docstring in fences."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """See the class.

        Args:
            obj: that was read.
            kwargs: not needed.
        """
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
