"""Lines of source: classes, methods and docstrings, formatted as formatters for Python leave them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gngraph.source.classes import SourceClass, constructor_code, statements
from gngraph.source.text import WIDTH, is_name, literal, render, wrapped


def class_lines(written: SourceClass, docstring: str, last: Sequence[str] = ()) -> Iterator[str]:
    """The lines of one class.

    Args:
        written: the class.
        docstring: its docstring, one line of plain text.
        last: statements that end its constructor.
    """
    yield f"class {written.name}({written.body.base}):"
    yield f'    """{docstring}"""'
    built = list(_constructor_lines(written, last))
    if built:
        yield ""
        yield from signature("__init__", [p.declaration() for p in written.bindings.parameters], "None")
        yield from (wrapped(line, 8) for line in built)
    forward = written.body.forward
    if forward is not None and not written.body.chained:
        yield ""
        arguments = [f"{name}: {kind}" for name, kind in forward.arguments]
        yield from signature("forward", arguments, forward.result)
        names = iter(written.bindings.called)
        for name, code in statements(written.body):
            text = render(code, names)
            yield wrapped(f"return {text}" if name == "return" else f"{name} = {text}" if name else text, 8)


def _constructor_lines(written: SourceClass, last: Sequence[str]) -> Iterator[str]:
    body = written.body
    kept = [f"self.{p.name} = {p.name}" for p in written.bindings.parameters if p.kept]
    names = iter(written.bindings.built)
    code = [render(expr, names) for expr in constructor_code(body)]
    if body.base == "nn.Module":
        if not (kept or code or last):
            return
        yield "super().__init__()"
        lines = list(map(_assignment, (*body.tensors, *body.children), code))
        yield from (*kept, *lines, *last)
        return
    children, tensors = code[: len(body.children)], code[len(body.children) :]
    listed = ", ".join(children)
    yield f"super().__init__({listed})" if body.base == "nn.Sequential" else f"super().__init__([{listed}])"
    yield from (*kept, *map(_assignment, body.tensors, tensors), *last)


def _assignment(name: str, code: str) -> str:
    if code.startswith("self.register_"):
        return code
    return f"self.{name} = {code}" if is_name(name) else f"self.add_module({literal(name)}, {code})"


def signature(name: str, arguments: Sequence[str], result: str) -> Iterator[str]:
    """The first line of a method, over several lines where it is too long.

    Args:
        name: of the method.
        arguments: behind `self`, with their annotations.
        result: annotation of what it returns.
    """
    line = f"    def {name}({', '.join(('self', *arguments))}) -> {result}:"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"    def {name}("
    yield from (f"        {argument}," for argument in ("self", *arguments))
    yield f"    ) -> {result}:"


def used_as(paths: Sequence[str]) -> str:
    """Docstring of a class that stands for the modules at `paths`.

    >>> used_as(["layer1.0", "layer1.1", "layer2.0", "layer2.1"])
    'The modules layer1.0, layer1.1, layer2.0 and 1 more.'
    >>> used_as(["layer1.0", "layer1.1"])
    'The modules layer1.0, layer1.1.'
    """
    for shown in (3, 2, 1):
        text = ", ".join(plain(path) for path in paths[:shown])
        if len(text) < WIDTH - 40:
            break
    if len(paths) == 1:
        return f"The module {text}."
    return f"The modules {text} and {len(paths) - shown} more." if shown < len(paths) else f"The modules {text}."


def plain(text: str) -> str:
    """`text` without what could end a docstring or break its line.

    >>> plain('a.b"' + chr(10))
    'a.b??'
    """
    return "".join(c if c.isalnum() or c in "._- :,()[]" else "?" for c in text)
