"""Reads the pickle inside a `torch.save` file without running it, and says what loading it would do.

torch's own `weights_only` unpickler, with an allow-list, is what keeps foreign code out. This audit comes before it,
because that unpickler still calls whatever is on the list with any arguments: it would build `Linear(10**6, 10**6)`,
read a tensor past the end of its record, or construct a listed class through `torch._tensor._rebuild_from_type_v2`.
The audit executes the pickle's instructions on placeholders, so a file costs memory in proportion to its pickle only.
"""

from __future__ import annotations

import math
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

MAX_PICKLE_BYTES = 16 * 2**20
"""Largest pickle that is read; the largest torchvision classifier needs less than 1 MiB."""

MAX_INSTRUCTIONS = 500_000
"""Most instructions of a pickle, which take 2 s; the largest torchvision classifier needs a tenth."""

MAX_LAYERS = 1000
"""Most layers of a recurrent module in a file."""

_ITEM_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
}
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_PARTIAL = "functools.partial"
_SET = "builtins.set"
_ENCODE = "_codecs.encode"
_DICTIONARIES = {"collections.OrderedDict", "collections.Counter"}
# Values that stay small and run nothing, whatever their arguments are.
_HARMLESS = {"builtins.complex", "torch.Size", "torch.device"}
_CALLED = {_TENSOR, _PARAMETER, _PARTIAL, _SET, _ENCODE} | _DICTIONARIES | _HARMLESS


class MalformedPickleError(Exception):
    """The bytes are no pickle, or one with instructions that `torch.save` does not write."""


@dataclass(frozen=True)
class Name:
    """A global that the pickle refers to, as `module.name`."""

    path: str


@dataclass(frozen=True)
class Storage:
    """The memory of a tensor: `items` elements."""

    items: int


@dataclass(eq=False)
class Built:
    """An object that unpickling would make.

    Attributes:
        path: what it is made by; "dict" and "set" for the built-in ones.
        args: the arguments of the call; None for an instance made without calling its class, as pickles do.
        items: key and value pairs put into it afterwards.
    """

    path: str
    args: tuple[object, ...] | None = None
    items: list[tuple[object, object]] = field(default_factory=list)


@dataclass(frozen=True)
class Audit:
    """What loading a pickle would do.

    Attributes:
        root: placeholder of the object that loading returns.
        names: the globals that are no part of tensors and plain containers, in order of appearance.
        faults: what `torch.save` never writes, one phrase each, in order of appearance.
    """

    root: object
    names: tuple[str, ...]
    faults: tuple[str, ...]


StorageCheck = Callable[[str, int], bool]
"""Whether the file has a record of this key with this many bytes."""


def audit_pickle(stream: IO[bytes], has_storage: StorageCheck) -> Audit:
    """Execute the next pickle of `stream` on placeholders, in O(length of the pickle).

    Args:
        stream: at the start of a pickle; afterwards behind its end.
        has_storage: whether a tensor's memory, named by key and size in bytes, is in the file with just this size.

    Raises:
        MalformedPickleError: it cannot be read to its end.
    """
    machine = _Machine(has_storage)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_INSTRUCTIONS:
                raise MalformedPickleError(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")
            machine.step(opcode.name, argument)
    except MalformedPickleError:
        raise
    except Exception as error:  # an arbitrary byte sequence can break any instruction
        raise MalformedPickleError(f"{type(error).__name__}: {error}") from error
    return Audit(machine.root, tuple(machine.names), tuple(machine.faults))


class _Machine:
    """A pickle virtual machine whose objects are placeholders."""

    def __init__(self, has_storage: StorageCheck) -> None:
        self.root: object = None
        self.names: dict[str, None] = {}
        self.faults: dict[str, None] = {}
        self._has_storage = has_storage
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._stated: set[int] = set()

    def step(self, opcode: str, argument: object) -> None:
        if opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME"):
            raise MalformedPickleError(f"it uses the instruction {opcode}, which torch.save does not write by default")

    def _fault(self, phrase: str) -> None:
        self.faults[phrase] = None

    def _items_since_mark(self) -> list[object]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    # Each instruction below takes the argument that is written in the pickle behind its code.

    def _mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _stop(self, _: object) -> None:
        self.root = self._stack.pop()

    def _global(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        path = path_of(module, name)
        self._stack.append(Name(path))
        if not is_plain(path):
            self.names[path] = None

    def _get(self, argument: object) -> None:
        assert isinstance(argument, int)
        self._stack.append(self._memo[argument])

    def _put(self, argument: object) -> None:
        assert isinstance(argument, int)
        self._memo[argument] = self._stack[-1]

    def _tuple(self, _: object) -> None:
        items = tuple(self._items_since_mark())
        self._stack.append(items)

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count:
            raise MalformedPickleError("it takes more from its stack than was put there")
        self._stack[-count:] = [items]

    def _empty_list(self, _: object) -> None:
        self._stack.append([])

    def _empty_dict(self, _: object) -> None:
        self._stack.append(Built("dict"))

    def _empty_set(self, _: object) -> None:
        self._stack.append(Built("set"))

    def _append(self, _: object) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self, _: object) -> None:
        self._extend(self._items_since_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        else:
            self._fault("appends to something that is no list")

    def _set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _set_items(self, _: object) -> None:
        self._update(self._items_since_mark())

    def _update(self, flat: list[object]) -> None:
        target = self._stack[-1]
        if not (isinstance(target, Built) and target.path in _DICTIONARIES | {"dict"}):
            self._fault("sets items of something that is no dictionary")
            return
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not _is_key(key):
                self._fault("has a dictionary key that is neither a string nor a number")
            target.items.append((key, value))

    def _persistent(self, _: object) -> None:
        identity = self._stack.pop()
        storage = Storage(0)
        match identity:
            case ("storage", Name(path), str(key), str(), int(items), *view) if (
                path in _ITEM_BYTES and items >= 0 and view in ([], [None])
            ):
                storage = Storage(items)
                if not self._has_storage(key, items * _ITEM_BYTES[path]):
                    self._fault(f'has a tensor whose size does not fit its record "{key}"')
            case ("module", Name() as cls, str() | None, str() | None) if cls.path in self.names:
                # How the format before PyTorch 1.6 names a module's class, beside its source, which is only compared.
                self._stack.append(cls)
                return
            case _:
                self._fault("refers to an outside object that is no tensor memory")
        self._stack.append(storage)

    def _new(self, _: object) -> None:
        args, cls = self._stack.pop(), self._stack.pop()
        if isinstance(cls, Name) and cls.path in self.names and args == ():
            self._stack.append(Built(cls.path))
        else:
            self._fault(f"makes a {_path(cls)} object with arguments")
            self._stack.append(Built(_path(cls)))

    def _reduce(self, _: object) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(args, tuple):
            raise MalformedPickleError("it calls a function without a tuple of arguments")
        if not isinstance(function, Name) or function.path not in _CALLED:
            self._fault(f"calls {_path(function)}")
        else:
            self._check_call(function.path, args)
        built = Built(_path(function), args)
        if built.path in _DICTIONARIES and args and isinstance(args[0], Built):
            built.items.extend(args[0].items)
        self._stack.append(built)

    def _check_call(self, path: str, args: tuple[object, ...]) -> None:
        if path == _TENSOR and not _fits(args):
            self._fault("has a tensor that reaches outside its memory")
        elif path == _PARTIAL and not (len(args) == 1 and self._is_class(args[0])):
            self._fault("wraps something that is no class in functools.partial")
        elif path == _ENCODE and args[1:] != ("latin1",):
            self._fault("decodes bytes in an unusual way")
        elif path == _SET and not (len(args) == 1 and isinstance(args[0], list) and all(map(_is_key, args[0]))):
            self._fault("has a set member that is neither a string nor a number")
        elif path in _DICTIONARIES and not (args == () or (len(args) == 1 and isinstance(args[0], Built))):
            self._fault(f"fills a {path} in an unusual way")

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if id(target) in self._stated:
            # The first state may bring a method by which the second is then set.
            self._fault("sets the state of an object twice")
        self._stated.add(id(target))
        path = target.path if isinstance(target, Built) else _path(target)
        if path == _PARTIAL:
            if not (isinstance(state, tuple) and len(state) == 4 and self._is_class(state[0]) and state[1] == ()):
                self._fault("wraps something that is no class in functools.partial")
        elif path != "collections.OrderedDict" and path not in self.names:
            self._fault(f"overwrites the state of a {path} object")
        elif isinstance(state, Built):
            # A recurrent layer names the weights of every layer while its state is set.
            layers = [value for key, value in state.items if key == "num_layers"]
            if any(not isinstance(count, int) or not 0 < count <= MAX_LAYERS for count in layers):
                self._fault(f"has a recurrent layer of {str(layers[0])[:20]} layers")

    def _is_class(self, value: object) -> bool:
        return isinstance(value, Name) and value.path in self.names


def path_of(module: str, name: str) -> str:
    """The global that a pickle calls `module`, `name`, as `module.name`: protocol 2 writes the names that Python 2 used."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def is_plain(path: str) -> bool:
    """Whether a global is part of tensors and plain containers."""
    return path in _CALLED or path in _ITEM_BYTES or _is_dtype(path)


def _path(value: object) -> str:
    return value.path if isinstance(value, Name) else "an object it made itself"


def _is_key(value: object) -> bool:
    # Anything else is refused as a key or set member: hashing nested tuples can take exponential time.
    return isinstance(value, str | int | float | None)


def _is_dtype(path: str) -> bool:
    import torch  # here, so that a file that needs no audit is told from others without it

    module, _, name = path.rpartition(".")
    return module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)


def _fits(args: tuple[object, ...]) -> bool:
    """Whether a rebuilt tensor `(storage, offset, size, stride, ...)` lies inside its storage."""
    match args:
        case (Storage(items), int(offset), tuple(size), tuple(stride), *_) if len(size) == len(stride):
            pairs = [(n, s) for n, s in zip(size, stride, strict=True) if isinstance(n, int) and isinstance(s, int)]
        case _:
            return False
    if len(pairs) != len(size) or offset < 0 or any(n < 0 or s < 0 for n, s in pairs):
        return False
    if any(n == 0 for n, _ in pairs):
        return True
    last = offset + sum((n - 1) * s for n, s in pairs)
    # The second condition refuses expanded tensors, which take no memory here but may take any amount when copied.
    return last < items and math.prod(n for n, _ in pairs) <= items


_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_INSTRUCTIONS: Mapping[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine._mark,
    "STOP": _Machine._stop,
    "GLOBAL": _Machine._global,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "EMPTY_LIST": _Machine._empty_list,
    "EMPTY_DICT": _Machine._empty_dict,
    "EMPTY_SET": _Machine._empty_set,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "BINPERSID": _Machine._persistent,
    "NEWOBJ": _Machine._new,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}
